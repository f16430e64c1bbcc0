"""The Microsoft Dynamics 365 (Dataverse) plugin of samband: members, staff and memberships, read by change tracking."""
