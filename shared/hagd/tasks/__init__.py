"""Behaviours as prompt pairs with roles, splits and a metric."""
