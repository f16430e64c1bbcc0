"""Plugins as the host sees them: found, admitted, contained in lanes of their own, and called.

`samband.adapters.registry` holds what was found; `samband.adapters.adapter` is one plugin, ready to be called.
"""
