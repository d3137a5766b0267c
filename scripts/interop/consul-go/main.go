// The script of scripts/interop.sh consul-go: what each client of Consul does, with the Go client.
//
// CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN name the node and the token, as for every program that uses this client.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/consul/api/watch"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "failed:", err)
		os.Exit(1)
	}
}

func expectQuietly(is bool, not string) {
	if !is {
		fmt.Fprintln(os.Stderr, "not as expected:", not)
		os.Exit(1)
	}
}

func expect(is bool, what string) {
	expectQuietly(is, what)
	fmt.Println("  " + what)
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "locks" {
		addresses := os.Args[2:]
		locks(addresses, 60*time.Second)
		semaphores(addresses, 45*time.Second)
		return
	}
	if len(os.Args) == 4 && os.Args[1] == "follow" {
		follow(os.Args[2], os.Args[3])
		return
	}
	client, err := api.NewClient(api.DefaultConfig())
	check(err)
	agent, health := client.Agent(), client.Health()

	check(agent.ServiceRegister(&api.AgentServiceRegistration{
		ID: "go-1", Name: "go", Port: 8080, Address: "10.0.0.1", Tags: []string{"v1", "blue"},
		Meta:  map[string]string{"team": "a"},
		Check: &api.AgentServiceCheck{TTL: "60s", DeregisterCriticalServiceAfter: "1h"},
	}))
	entries, meta, err := health.Service("go", "", true, nil)
	check(err)
	expect(len(entries) == 0, "registered: critical until the first report")

	done := make(chan []*api.ServiceEntry)
	go func() {
		entries, _, err := health.Service("go", "v1", true, &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: time.Minute})
		check(err)
		done <- entries
	}()
	time.Sleep(200 * time.Millisecond)
	reported := time.Now()
	check(agent.PassTTL("service:go-1", "fine"))
	entries = <-done
	woken := time.Since(reported)
	expect(len(entries) == 1 && entries[0].Service.Meta["team"] == "a", "passing: the waiting query was woken")
	fmt.Printf("  woken %d ms after the report\n", woken.Milliseconds())

	_, meta, err = health.Service("go", "", true, nil)
	check(err)
	_, same, err := health.Service("go", "", true, &api.QueryOptions{WaitIndex: meta.LastIndex, WaitTime: 300 * time.Millisecond})
	check(err)
	expect(same.LastIndex == meta.LastIndex, "no change: the index is the same after the wait")
	expect(meta.KnownLeader && meta.LastContact < 10*time.Second, "the leader is known")

	plan, err := watch.Parse(map[string]any{"type": "service", "service": "go"})
	check(err)
	seen := make(chan int, 16)
	plan.Handler = func(_ uint64, data any) { seen <- len(data.([]*api.ServiceEntry)) }
	go func() { check(plan.RunWithClientAndHclog(client, nil)) }()
	expect(<-seen == 1, "a watch plan sees the service")

	filtered, _, err := client.Catalog().Service("go", "", &api.QueryOptions{Filter: `ServiceMeta.team == "a" and "blue" in ServiceTags`})
	check(err)
	expect(len(filtered) == 1 && filtered[0].ServiceAddress == "10.0.0.1", "the catalog, with a filter")
	services, _, err := client.Catalog().Services(&api.QueryOptions{AllowStale: true})
	check(err)
	expect(len(services["go"]) == 2, "all services with their tags")
	status, info, err := agent.AgentHealthServiceByID("go-1")
	check(err)
	expect(status == api.HealthPassing && info.Service.Port == 8080, "the aggregated health")

	check(agent.UpdateTTL("service:go-1", "disk is full", api.HealthCritical))
	entries, _, err = health.Service("go", "", false, nil)
	check(err)
	expect(entries[0].Checks.AggregatedStatus() == api.HealthCritical, "failed: it stays listed")
	check(agent.EnableServiceMaintenance("go-1", "a new disk"))
	entries, _, err = health.Service("go", "", false, nil)
	check(err)
	expect(entries[0].Checks.AggregatedStatus() == api.HealthMaint, "in maintenance")
	check(agent.DisableServiceMaintenance("go-1"))
	check(agent.ServiceDeregister("go-1"))
	for len := range seen {
		if len == 0 {
			break
		}
	}
	plan.Stop()
	expect(true, "deregistered: the watch plan was woken")
	err = agent.PassTTL("service:go-1", "")
	expect(err != nil && strings.Contains(err.Error(), "Unknown check ID"), "a report about it is refused")

	_, err = client.Catalog().Register(&api.CatalogRegistration{
		Node: "outside", Address: "10.0.0.9", SkipNodeUpdate: false,
		Service: &api.AgentService{Service: "database", ID: "database", Port: 5432},
	}, nil)
	check(err)
	node, _, err := client.Catalog().Node("outside", nil)
	check(err)
	expect(node.Services["database"].Port == 5432, "a node that runs no agent")
	_, err = client.Catalog().Deregister(&api.CatalogDeregistration{Node: "outside"}, nil)
	check(err)
	keys := client.KV()
	pair, _, err := keys.Get("a", nil)
	check(err)
	expect(pair == nil, "a key that does not exist")
	_, err = keys.Put(&api.KVPair{Key: "app/a", Value: []byte("one"), Flags: 7}, nil)
	check(err)
	pair, _, err = keys.Get("app/a", nil)
	check(err)
	expect(string(pair.Value) == "one" && pair.Flags == 7, "a key")
	set, _, err := keys.CAS(&api.KVPair{Key: "app/a", Value: []byte("two"), ModifyIndex: pair.ModifyIndex + 1}, nil)
	check(err)
	expect(!set, "compare and set with another index")
	set, _, err = keys.CAS(&api.KVPair{Key: "app/a", Value: []byte("two"), ModifyIndex: pair.ModifyIndex}, nil)
	check(err)
	expect(set, "compare and set")
	names, _, err := keys.Keys("", "/", nil)
	check(err)
	expect(len(names) == 1 && names[0] == "app/", "names below the root")
	ok, answer, _, err := keys.Txn(api.KVTxnOps{
		{Verb: api.KVSet, Key: "app/b", Value: []byte("b")},
		{Verb: api.KVGet, Key: "app/a"},
	}, nil)
	check(err)
	expect(ok && string(answer.Results[1].Value) == "two", "a transaction")
	ok, answer, _, err = keys.Txn(api.KVTxnOps{
		{Verb: api.KVSet, Key: "app/c", Value: []byte("c")},
		{Verb: api.KVCheckNotExists, Key: "app/a"},
	}, nil)
	check(err)
	expect(!ok && answer.Errors[0].OpIndex == 1, "a transaction that fails")
	_, err = keys.DeleteTree("app/", nil)
	check(err)
	id, _, err := client.Session().Create(&api.SessionEntry{Name: "interop", TTL: "10s", LockDelay: time.Second}, nil)
	check(err)
	renewed, _, err := client.Session().Renew(id, nil)
	check(err)
	expect(renewed.Name == "interop" && renewed.LockDelay == time.Second, "a session")
	_, err = client.Session().Destroy(id, nil)
	check(err)
	renewed, _, err = client.Session().Renew(id, nil)
	check(err)
	expect(renewed == nil, "a session that was destroyed")
}
