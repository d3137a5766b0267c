package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

// Lock and Semaphore of the Go client through all nodes, while the script kills the leader again and again. There are
// never more holders than allowed, and the fencing token of the lock grows with each holder.
func locks(addresses []string, duration time.Duration) {
	end := time.Now().Add(duration)
	clients := make([]*api.Client, len(addresses))
	for at, address := range addresses {
		config := api.DefaultConfig()
		config.Address = address
		client, err := api.NewClient(config)
		check(err)
		clients[at] = client
	}
	var done sync.WaitGroup
	var holders, turns, lost, failed atomic.Int64
	var newest uint64
	var tokens sync.Mutex
	hold := func(lostCh <-chan struct{}) {
		select {
		case <-lostCh:
			lost.Add(1)
		case <-time.After(200 * time.Millisecond):
		}
	}
	for _, client := range clients {
		done.Add(1)
		go func() {
			defer done.Done()
			for time.Now().Before(end) {
				lock, err := client.LockOpts(&api.LockOptions{Key: "interop/lock", SessionTTL: "10s", LockDelay: time.Second})
				check(err)
				stop := make(chan struct{})
				timer := time.AfterFunc(20*time.Second, func() { close(stop) })
				lostCh, err := lock.Lock(stop)
				timer.Stop()
				if err != nil || lostCh == nil {
					// Its node is being restarted, or nobody gave the lock back in time.
					failed.Add(1)
					time.Sleep(200 * time.Millisecond)
					continue
				}
				expectQuietly(holders.Add(1) == 1, "two holders of the lock at once")
				pair, _, err := client.KV().Get("interop/lock", nil)
				if err == nil && pair != nil && pair.Session != "" {
					select {
					case <-lostCh:
					default:
						tokens.Lock()
						expectQuietly(pair.LockIndex > newest, "the fencing token did not grow")
						newest = pair.LockIndex
						tokens.Unlock()
					}
				}
				hold(lostCh)
				turns.Add(1)
				holders.Add(-1)
				if lock.Unlock() != nil {
					failed.Add(1)
				}
			}
		}()
	}
	done.Wait()
	fmt.Printf("  lock: %d turns of %d contenders, %d lost, %d attempts failed, fencing token %d\n", turns.Load(), len(clients), lost.Load(), failed.Load(), newest)
	expect(turns.Load() > 20, "never two holders of a lock")
}

func semaphores(addresses []string, duration time.Duration) {
	const limit = 2
	end := time.Now().Add(duration)
	var done sync.WaitGroup
	var holders, turns, failed atomic.Int64
	for at := range 2 * len(addresses) {
		config := api.DefaultConfig()
		config.Address = addresses[at%len(addresses)]
		client, err := api.NewClient(config)
		check(err)
		done.Add(1)
		go func() {
			defer done.Done()
			for time.Now().Before(end) {
				semaphore, err := client.SemaphoreOpts(&api.SemaphoreOptions{Prefix: "interop/semaphore", Limit: limit, SessionTTL: "10s"})
				check(err)
				stop := make(chan struct{})
				timer := time.AfterFunc(20*time.Second, func() { close(stop) })
				lostCh, err := semaphore.Acquire(stop)
				timer.Stop()
				if err != nil || lostCh == nil {
					failed.Add(1)
					time.Sleep(200 * time.Millisecond)
					continue
				}
				expectQuietly(holders.Add(1) <= limit, "three holders of a semaphore with two places")
				select {
				case <-lostCh:
				case <-time.After(200 * time.Millisecond):
				}
				turns.Add(1)
				holders.Add(-1)
				if semaphore.Release() != nil {
					failed.Add(1)
				}
			}
		}()
	}
	done.Wait()
	fmt.Printf("  semaphore: %d turns of %d contenders for %d places, %d attempts failed\n", turns.Load(), 2*len(addresses), limit, failed.Load())
	expect(turns.Load() > 20, "never more holders than places")
}
