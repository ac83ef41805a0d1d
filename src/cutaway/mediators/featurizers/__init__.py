"""The bases in which an activation is looked at and changed; one file a basis."""
