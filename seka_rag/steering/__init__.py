"""Ways of steering, one file each: SEKA and the methods that it is compared with."""
