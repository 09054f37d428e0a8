"""A release in the forms that training frameworks read: made from its files, checked by theirs."""
