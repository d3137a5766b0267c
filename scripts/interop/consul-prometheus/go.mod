module consul-prometheus

go 1.25

require github.com/prometheus/prometheus v0.316.0

tool github.com/prometheus/prometheus/cmd/prometheus
