//! Reads the whole body of a request, with limits on its length, on its time, and on the bytes of all bodies in flight.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Extensions;
use bytes::BytesMut;
use http_body_util::BodyExt;

use super::{AppState, Caller, RequestContext};
use maxine_admission::{CallerClass, Leave, NoPlace, Place, Places};

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum BodyError {
    /// The body is longer than the route allows.
    TooLong,
    /// The body did not arrive completely in time.
    TooSlow,
    /// The connection broke, or the body is malformed.
    Broken,
    /// Too many bytes of bodies are in flight.
    NoRoom(NoPlace),
}

/// Reads `body`, whose request has these extensions. `len_max` is in bytes. A body that arrives in one part does not
/// count as in flight, because it is released at once.
pub(super) async fn read(
    state: &AppState,
    extensions: &Extensions,
    body: Body,
    len_max: usize,
) -> Result<Bytes, BodyError> {
    let timeout = Duration::from_millis(state.settings().body_timeout_ms);
    let reading = read_whole(state.bodies(), extensions, body, len_max);
    tokio::time::timeout(timeout, reading).await.unwrap_or(Err(BodyError::TooSlow))
}

async fn read_whole(
    places: &Arc<Places>,
    extensions: &Extensions,
    mut body: Body,
    len_max: usize,
) -> Result<Bytes, BodyError> {
    if body.size_hint().lower() > len_max as u64 {
        return Err(BodyError::TooLong);
    }
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let mut held: Option<(Place, Arc<Leave>)> = None;
    loop {
        let frame = match &held {
            None => body.frame().await,
            // The client of a body that is not complete loses nothing but time.
            Some((_, leave)) => tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = leave.displaced() => return Err(BodyError::NoRoom(NoPlace::Node)),
            },
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        if first.len() + whole.len() + data.len() > len_max {
            return Err(BodyError::TooLong);
        }
        if first.is_empty() && whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        let (place, leave) = match &mut held {
            Some(held) => held,
            empty => {
                let client = extensions.get::<RequestContext>().map(|context| context.client.ip);
                let caller = extensions.get::<Caller>();
                let caller_class = caller.map_or(CallerClass::Stranger, Caller::class);
                let client = client.unwrap_or([0, 0, 0, 0].into());
                let place = places.take(client, caller_class, 0).map_err(BodyError::NoRoom)?;
                empty.insert((place, Arc::new(Leave::after(Duration::ZERO))))
            }
        };
        place.grow(data.len()).map_err(BodyError::NoRoom)?;
        place.give_way(leave);
        if first.is_empty() && whole.is_empty() {
            first = data;
            continue;
        }
        whole.extend_from_slice(&std::mem::take(&mut first));
        whole.extend_from_slice(&data);
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}
