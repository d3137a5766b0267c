module client

go 1.22

require github.com/hashicorp/consul/api v1.34.5
