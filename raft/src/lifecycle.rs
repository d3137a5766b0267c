//! Whether a node runs, and what has to end with it: its tasks, its runtime and the thread of the application.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::storage::state_machine;

/// Time limit for the end of the tasks, and of the application's thread.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The life of a node. Dropping it stops the node abruptly.
pub(crate) struct Lifecycle {
    /// Cancelled when the node stops.
    pub(crate) stop: CancellationToken,
    /// The tasks that end with the node.
    pub(crate) tasks: TaskTracker,
    accepting: AtomicBool,
    app_thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    runtime: Mutex<Option<Runtime>>,
}

impl Lifecycle {
    pub(crate) fn new(
        runtime: Option<Runtime>,
        app_thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    ) -> Self {
        Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            accepting: AtomicBool::new(true),
            app_thread,
            runtime: Mutex::new(runtime),
        }
    }

    /// Whether the node accepts proposals and messages of its own program.
    pub(crate) fn is_accepting(&self) -> bool {
        self.accepting.load(Ordering::Acquire)
    }

    /// From now on the node accepts nothing new.
    pub(crate) fn accept_no_more(&self) {
        self.accepting.store(false, Ordering::Release);
    }

    /// Waits for the tasks, which end once `stop` is cancelled.
    pub(crate) async fn end_tasks(&self) {
        self.tasks.close();
        let _ = tokio::time::timeout(END_TIMEOUT, self.tasks.wait()).await;
    }

    /// Waits for the thread of the application, which ends with the core.
    pub(crate) async fn end_app_thread(&self) {
        let thread = self.app_thread.clone();
        let joined = move || state_machine::join_thread(&thread, END_TIMEOUT);
        let _ = tokio::task::spawn_blocking(joined).await;
    }

    /// Ends the runtime. It does not wait, because that is not allowed where this may run.
    pub(crate) fn end_runtime(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Lifecycle {
    fn drop(&mut self) {
        self.stop.cancel();
        self.end_runtime();
    }
}
