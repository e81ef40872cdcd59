module example/orders

go 1.21
