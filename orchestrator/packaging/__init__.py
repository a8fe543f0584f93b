"""A trained generator as a model that others load with nothing but mlflow and torch."""
