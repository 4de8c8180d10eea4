"""Tables in and out: schemas, the door, results. Nothing else of marginax touches a file of a user."""
