// Command faults is the part of a client in `scripts/sdks.py faults`: it registers itself, calls the targets, and
// prints what it sees.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"maxine/native"
)

func tell(targets *native.Resolver) {
	var ids []string
	for _, instance := range targets.Instances() {
		ids = append(ids, instance.ID)
	}
	fmt.Println("change", time.Now().UnixMilli(), strings.Join(ids, ","))
}

func main() {
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var errors atomic.Int64
	options := native.Options{OnError: func(error) { errors.Add(1) }}
	if issuer := os.Getenv("MAXINE_TEST_ISSUER"); issuer != "" { // The tokens of this client are valid for 10 s.
		credentials, err := native.NewClientCredentials(native.ClientCredentialsOptions{
			ClientID: "worker", Issuer: issuer, ClientSecretEnv: "MAXINE_TEST_SECRET", Resource: "https://maxine.test/",
		})
		if err != nil {
			log.Fatal(err)
		}
		options.Credentials = credentials
	}
	client, err := native.New(strings.Split(os.Getenv("MAXINE_SERVER"), ","), options)
	if err != nil {
		log.Fatal(err)
	}
	kept, err := client.Register(ended, "workers", "go", native.Body{Address: "http://127.0.0.1:1", TTLMs: 3_000})
	if err != nil {
		log.Fatal(err)
	}
	targets, err := client.Resolver(ended, "targets", "")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			changed := targets.Changed()
			tell(targets)
			<-changed
		}
	}()
	calls, failed, ageMax := 0, 0, time.Duration(0)
	caller := &http.Client{Transport: client.Transport(nil), Timeout: 5 * time.Second}
	for ended.Err() == nil {
		calls++
		if age := targets.Age(); age > ageMax {
			ageMax = age
		}
		answer, err := caller.Get("maxine://targets/")
		if err != nil {
			failed++
		} else {
			_, _ = io.Copy(io.Discard, answer.Body)
			answer.Body.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = client.Stop(context.Background(), 0)
	began := time.Now()
	for n := 0; n < 100_000; n++ {
		targets.Choose(nil).Done()
	}
	_, renewals := kept.Counts()
	fmt.Printf(`{"calls": %d, "failed": %d, "ageMaxMs": %d, "chooseNs": %d, "renewals": %d, "errors": %d}`+"\n",
		calls, failed, ageMax.Milliseconds(), time.Since(began).Nanoseconds()/100_000, renewals, errors.Load())
}
