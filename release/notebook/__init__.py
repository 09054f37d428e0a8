"""What people have in a notebook: cubes as a table, releases and chips as pictures and maps."""
