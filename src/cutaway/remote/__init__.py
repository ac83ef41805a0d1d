"""The client of the shared service: a model that runs elsewhere, used like one that runs here."""
