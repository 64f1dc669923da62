"""The generated part of docs/: schemas and tables, made from the code that they describe."""
