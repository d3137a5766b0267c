module maxine

go 1.19
