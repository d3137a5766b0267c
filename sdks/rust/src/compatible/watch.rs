//! The changes of a service as they happen. Each new stream continues where the last one ended.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value};

use super::{Maxine, refused};
use crate::error::Error;
use crate::path::encoded;
use crate::sse::{Event, Events};

/// Pause before a broken stream is opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// What changed: `instance_registered`, `instance_removed`, `health_changed`, `drain_changed`, `policy_changed`; or
    /// `compacted`, which is the last one: read the present state, and watch again.
    pub kind: String,
    /// Its fields.
    pub fields: Map<String, Value>,
}

struct Watch {
    client: Maxine,
    path: String,
    last: Option<String>,
    body: Option<BoxStream<'static, reqwest::Result<Vec<u8>>>>,
    events: Events,
    found: VecDeque<Change>,
    over: bool,
}

impl Maxine {
    /// The changes of one service, without a gap, from now on or after an index. The stream ends with
    /// `compacted`, or with an error that a retry cannot solve.
    pub fn watch(
        &self,
        service_name: &str,
        index: Option<u64>,
    ) -> impl Stream<Item = Result<Change, Error>> + Send + 'static {
        let watch = Watch {
            client: self.clone(),
            path: format!("/api/v1/watch?service={}", encoded(service_name)),
            last: index.map(|index| index.to_string()),
            body: None,
            events: Events::default(),
            found: VecDeque::new(),
            over: false,
        };
        stream::unfold(
            watch,
            |mut watch| async move { watch.next().await.map(|item| (item, watch)) },
        )
    }
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Change, Error>> {
        loop {
            if let Some(change) = self.found.pop_front() {
                self.over = change.kind == "compacted";
                return Some(Ok(change));
            }
            if self.over {
                return None;
            }
            match self.read().await {
                Ok(true) => {}
                Err(error) if !is_passing(&error) => {
                    self.over = true;
                    return Some(Err(error));
                }
                Ok(false) | Err(_) => {
                    self.body = None;
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Reads a piece. Returns whether the stream continues.
    async fn read(&mut self) -> Result<bool, Error> {
        let Some(body) = &mut self.body else {
            let last = self.last.clone();
            let resume = |request: reqwest::RequestBuilder| match &last {
                Some(last) => request.header("last-event-id", last),
                None => request,
            };
            let answer = self.client.send(Method::GET, &self.path, resume).await?;
            if answer.status() != StatusCode::OK {
                return Err(refused(answer).await);
            }
            self.events = Events::default();
            self.body = Some(answer.bytes_stream().map(|piece| piece.map(|b| b.to_vec())).boxed());
            return Ok(true);
        };
        let Some(piece) = body.next().await else { return Ok(false) };
        self.events.push(&piece?);
        while let Some(event) = self.events.take() {
            self.handle(event)?;
        }
        Ok(true)
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        if event.id.is_some() {
            self.last = event.id;
        }
        if let Some(kind) = event.kind.filter(|kind| kind != "ready") {
            let fields = serde_json::from_str(&event.data);
            let fields = fields.map_err(|error| Error::Malformed(error.to_string()))?;
            self.found.push_back(Change { kind, fields });
        }
        Ok(())
    }
}

/// Whether a retry may succeed.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Refused { status, .. } => {
            status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
        }
        Error::Transport(_) | Error::Late => true,
        Error::Name(_)
        | Error::Malformed(_)
        | Error::Token(_)
        | Error::NoInstance(_)
        | Error::Settings(_) => false,
    }
}
