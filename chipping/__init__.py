"""Phase two: from sealed cubes to scored windows, chosen windows and written chips. No network, ever."""
