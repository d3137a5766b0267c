package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
)

// Keeps itself registered as an instance of worker, and prints the passing instances of web after each change.
func follow(address, token string) {
	config := api.DefaultConfig()
	config.Address, config.Token = address, token
	client, err := api.NewClient(config)
	check(err)
	check(client.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID: "worker-1", Name: "worker", Port: 8080, Address: "10.0.0.1",
		Check: &api.AgentServiceCheck{TTL: "20s", Status: api.HealthPassing},
	}))
	go func() {
		for range time.Tick(3 * time.Second) {
			if err := client.Agent().PassTTL("service:worker-1", ""); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	plan, err := watch.Parse(map[string]any{"type": "service", "service": "web", "passingonly": true})
	check(err)
	plan.Handler = func(_ uint64, data any) {
		ids := []string{}
		for _, entry := range data.([]*api.ServiceEntry) {
			ids = append(ids, entry.Service.ID)
		}
		line, err := json.Marshal(ids)
		check(err)
		fmt.Println(string(line))
	}
	check(plan.RunWithClientAndHclog(client, nil))
}
