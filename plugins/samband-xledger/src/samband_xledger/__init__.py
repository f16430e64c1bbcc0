"""Xledger for samband: the plugin is `samband_xledger.plugin`."""
