"""One module a model. What it needs of torch it imports in ``make``, so that the list of models shows at once."""
