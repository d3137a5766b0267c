use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::dev::Dev;

/// One node after another is stopped and started again. Every answered request succeeds. A client whose node
/// does not answer uses the next one, as real clients do.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_no_request_but_those_on_the_stopping_node() {
    let dir = tempfile::tempdir().unwrap();
    let dev = Arc::new(Dev::start(dir.path(), &[]));
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (dev, stop, written) = (Arc::clone(&dev), Arc::clone(&stop), Arc::clone(&written));
        tokio::spawn(async move {
            let mut refused = Vec::new();
            for n in 0_usize.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let id = format!("i{n}");
                for turn in 0..3 {
                    let (status, body) = dev.register((n + turn) % 3, "orders", &id).await;
                    match status {
                        200 => {
                            written.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                        // There is no connection, or the stopping node has closed it. The client uses the
                        // next node.
                        0 => continue,
                        _ => {
                            refused.push((status, body));
                            break;
                        }
                    }
                }
            }
            refused
        })
    };
    for node in 0..3 {
        let before = written.load(Ordering::SeqCst);
        dev.signal(node, Signal::SIGTERM);
        while dev.ready(node).await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        dev.restart_dead();
        // The process that ended may not have been reaped yet when the first call came.
        while dev.ready(node).await.is_none() {
            dev.restart_dead();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        dev.wait_ready(node).await;
        while written.load(Ordering::SeqCst) < before + 10 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    stop.store(true, Ordering::SeqCst);
    let refused = load.await.unwrap();
    assert!(refused.is_empty(), "refused: {refused:?}");
}
