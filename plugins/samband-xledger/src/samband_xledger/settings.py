"""What an operator says about one Xledger tenant: which entity, by which ways, and how hard it may be used."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, StringConstraints, model_validator

from samband import CredentialsModel, SettingsModel
from samband_xledger.layouts import CsvLayout, XmlLayout

RouteName = Literal["graphql", "soap", "file"]

_HOSTS = {
    "live": ("https://www.xledger.net/graphql", "https://ws.xledger.net"),
    "demo": ("https://demo.xledger.net/graphql", "https://wsdemo.xledger.net"),
}
_APPLICATIONS = {"live": "XLEDGER", "demo": "XLEDGERDEMO"}


class XledgerSettings(SettingsModel):
    """One entity of one tenant."""

    environment: Literal["live", "demo"] = Field(
        default="live", title="Environment", description="Demo is overwritten from live at every refresh."
    )
    entity_code: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")] = Field(
        title="Entity", description="Number of the entity that is booked in; the token must reach it."
    )
    routes: tuple[RouteName, ...] = Field(
        default=("graphql", "soap", "file"),
        min_length=1,
        title="Routes",
        description="Ways to book, best first. The next one is tried only when nothing was sent by the one before.",
    )
    pinned_route: RouteName | None = Field(
        default=None, title="Pinned route", description="The only way that is used, whatever happens to it."
    )
    voucher_type: Annotated[str, StringConstraints(min_length=1, max_length=8)] = Field(
        default="GL", title="Transaction source", description="Used where the mapping names none."
    )
    job_level: int | None = Field(
        default=1,
        title="Job level",
        description="How far Xledger's import job carries the lines (dbSubId); null leaves it out.",
    )
    dimension_fields: dict[
        str, Literal["glObject1", "glObject2", "glObject3", "glObject4", "glObject5", "project", "xgl"]
    ] = Field(
        default={"project": "project"},
        title="Dimensions",
        description="Name of a dimension in the mapping → the field it has in this tenant.",
    )
    dimension_kinds: dict[str, str] = Field(
        default={},
        title="Kinds of dimensions",
        description="Name of a dimension in the mapping → name of the object kind that has its values in this tenant; one that"
        " is left out cannot be checked against Xledger's lists. Projects need no entry.",
    )
    subledger_types: dict[Literal["employee", "supplier"], str] = Field(
        default={},
        title="Subledger transaction types",
        description="Payee → code of the subledger's transaction type (slTransactionType); left out, Xledger's default counts.",
    )
    import_code: Annotated[str, StringConstraints(min_length=1, max_length=40)] = Field(
        default="GL02XML", title="Import code", description="The tenant's import definition for files sent over SOAP."
    )
    xml_layout: XmlLayout = Field(
        default=XmlLayout(),
        title="XML layout",
        description="Elements of the files sent over SOAP, as the import definition wants them.",
    )
    csv_layout: CsvLayout = Field(
        default=CsvLayout(),
        title="CSV layout",
        description="Columns of the files for the drop folder, as the import definition wants them.",
    )
    soap_version: Literal["1.1", "1.2"] = Field(
        default="1.2", title="SOAP version", description="Which binding is used."
    )
    soap_settle_after_h: Annotated[float, Field(gt=0, le=720)] = Field(
        default=168.0,
        title="Import job latest after",
        description="Hours after which an uploaded file must have been imported, weekends and holidays included; one that is"
        " not found is not sent again before that, and would be booked twice if its import were later still.",
    )
    logon_key_lifetime_min: Annotated[int, Field(ge=1, le=1440)] = Field(
        default=20, title="Log-on key lifetime", description="Minutes after which a new log-on key is fetched."
    )
    monthly_requests: Annotated[int, Field(ge=1)] | None = Field(
        default=5000,
        title="Requests a month",
        description="What the licence covers; a warning is given at 80 %. Null for no limit.",
    )
    page_size: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=2_000, title="Page size", description="Rows that one request reads at most."
    )
    bookings: bool = Field(
        default=False,
        title="Read bookings",
        description="Reads everything that is posted as the stream of bookings; the token then needs the right to Transaction.",
    )
    graphql_url: str | None = Field(
        default=None, title="GraphQL address", description="Only where it is not the vendor's own."
    )
    soap_url: str | None = Field(
        default=None,
        title="SOAP address",
        description="Beginning of the services' addresses, only where it is not the vendor's own.",
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.routes)) != len(self.routes):
            raise ValueError("each route is named once")
        if self.pinned_route is not None and self.pinned_route not in self.routes:
            raise ValueError("the pinned route is one of the routes")
        return self

    @property
    def graphql_endpoint(self) -> str:
        return self.graphql_url or _HOSTS[self.environment][0]

    @property
    def soap_endpoint(self) -> str:
        return (self.soap_url or _HOSTS[self.environment][1]).rstrip("/")

    @property
    def graphql_host(self) -> str:
        return _place(self.graphql_endpoint)

    @property
    def soap_host(self) -> str:
        return _place(self.soap_endpoint)

    @property
    def account(self) -> str:
        """Whom limits and the monthly requests are counted for."""
        return f"{self.environment}/{self.entity_code}"

    @property
    def ways(self) -> tuple[RouteName, ...]:
        """The routes in use."""
        return (self.pinned_route,) if self.pinned_route else self.routes

    @property
    def application(self) -> str:
        return _APPLICATIONS[self.environment]


class XledgerCredentials(CredentialsModel):
    """Rights to one entity. The token reads and posts over GraphQL; the log-on is for files over SOAP."""

    api_token: SecretStr | None = Field(
        default=None,
        title="API token",
        description="Made by a domain administrator: Administration, System Access, GraphQL, API tokens.",
    )
    soap_user: SecretStr | None = Field(
        default=None, title="Web service user", description="Needs the roles Web Service User and File Uploader."
    )
    soap_password: SecretStr | None = Field(default=None, title="Password", description="Of the web service user.")

    @model_validator(mode="after")
    def _is_usable(self) -> Self:
        if (self.soap_user is None) != (self.soap_password is None):
            raise ValueError("the web service user and its password belong together")
        return self


def _place(url: str) -> str:
    """Gives the host, with its port where the address has one."""
    return urlsplit(url).netloc
