// Prometheus' own service discovery for Consul, alone: prints the targets as JSON, one line for each change.
//
// Debian builds Prometheus without this discovery, so this program runs the code of the module
// github.com/prometheus/prometheus.
//
// Arguments: the address of the node, and a token.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

func main() {
	settings := consul.DefaultSDConfig
	settings.Server = os.Args[1]
	settings.Token = config.Secret(os.Args[2])
	settings.RefreshInterval = model.Duration(time.Second)
	registry := prometheus.NewRegistry()
	metrics := settings.NewDiscovererMetrics(registry, discovery.NewRefreshMetrics(registry))
	if err := metrics.Register(); err != nil {
		panic(err)
	}
	found, err := settings.NewDiscoverer(discovery.DiscovererOptions{Logger: promslog.New(&promslog.Config{}), Metrics: metrics})
	if err != nil {
		panic(err)
	}
	updates := make(chan []*targetgroup.Group)
	go found.Run(context.Background(), updates)
	groups := map[string]*targetgroup.Group{}
	for update := range updates {
		for _, group := range update {
			groups[group.Source] = group
		}
		targets := [][]string{}
		for _, group := range groups {
			for _, target := range group.Targets {
				targets = append(targets, []string{
					string(target[model.AddressLabel]), string(group.Labels["__meta_consul_service"]),
					string(target["__meta_consul_health"]),
				})
			}
		}
		sort.Slice(targets, func(i, j int) bool { return targets[i][0] < targets[j][0] })
		line, err := json.Marshal(targets)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(line))
	}
}
