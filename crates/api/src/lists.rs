//! Limits the number of long lists that are built at the same time.
//!
//! A short request can ask for a list of many megabytes. So a list needs a place, from before it is built until its
//! answer is delivered or dropped, and each address has a limited number of places. A list is built when its turn
//! comes: only some of the node's threads build lists, and the others stay free for all other requests. The lists of
//! one address wait for each other first, so that the lists of other addresses do not wait for all of them. If a client
//! leaves while its list waits, the list is not built.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

use super::caller::{CalledBy, Caller, RequestContext};
use super::codings;
use super::compat_error::{CompatError, edge_error};
use super::problem::{Problem, ProblemKind};
use maxine_admission::{CallerClass, NoPlace, NodeTurns, Place, PlaceLimits, Places, Turn};

/// Limits for the lists in flight, which are waiting for their turn, being built, or being delivered.
const PLACES: PlaceLimits = PlaceLimits { max: 512, per_address_max: 64, reserved: 128 };

/// Length from which the answer for one object needs a turn too, in bytes as the state stores the object. Its JSON can
/// be six times longer.
pub(super) const LONG_OBJECT_LEN_MIN: u64 = 8 * 1_024;

/// The lists of a node.
pub(super) struct Lists {
    places: Arc<Places>,
    turns: Arc<NodeTurns>,
}

/// A list that may be built now.
pub(super) struct Listing {
    place: Place,
    turn: Turn,
    /// Whether the client accepts a compressed answer.
    gzip: bool,
}

/// Why a list is not built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotListed {
    /// The node has no more places.
    Node,
    /// The address has no more places.
    Address,
    /// Its turn did not come in time.
    TooLate,
}

impl From<NotListed> for CompatError {
    fn from(why: NotListed) -> Self {
        let (status, text) = match why {
            NotListed::Address => (
                StatusCode::TOO_MANY_REQUESTS,
                "too many lists for your address or user are in flight",
            ),
            NotListed::Node => (StatusCode::SERVICE_UNAVAILABLE, "too many lists are in flight"),
            NotListed::TooLate => {
                (StatusCode::SERVICE_UNAVAILABLE, "too many lists are to be built before this one")
            }
        };
        Self::new(status, text).with_retry_after_s(Some(1))
    }
}

impl From<NotListed> for Problem {
    fn from(why: NotListed) -> Self {
        let error = CompatError::from(why);
        let mut problem = Self::new(ProblemKind::of_status(error.status), error.message);
        problem.retry = error.retry;
        problem.retry_after_s = error.retry_after_s;
        problem
    }
}

impl Lists {
    pub(super) fn new(turns: NodeTurns) -> Self {
        Self { places: Places::fair(PLACES), turns: Arc::new(turns) }
    }

    /// The turns, which other faces share.
    pub(super) fn turns(&self) -> &Arc<NodeTurns> {
        &self.turns
    }

    /// Waits until a list may be built. Dropping the future gives up the place. A handler that waits for something
    /// else first calls it afterwards; the others have a [`Listing`] as their last argument.
    pub(super) async fn begin(
        &self,
        address: IpAddr,
        caller: &Caller,
    ) -> Result<Listing, NotListed> {
        let place = self.take(address, caller.class())?;
        Ok(Listing { place, turn: self.turn(address, caller).await?, gzip: false })
    }

    /// Holds a place for a long answer that is built already, until it is delivered or dropped.
    pub(super) fn hold(
        &self,
        address: IpAddr,
        caller_class: CallerClass,
        response: Response<Body>,
    ) -> Result<Response<Body>, NotListed> {
        let place = self.take(address, caller_class)?;
        Ok(response.map(|inner| Body::new(Held { inner, _place: place })))
    }

    /// Whether a long answer could be held now.
    pub(super) fn has_place(&self, address: IpAddr, caller_class: CallerClass) -> bool {
        self.places.room(address, caller_class) > 0
    }

    fn take(&self, address: IpAddr, caller_class: CallerClass) -> Result<Place, NotListed> {
        self.places.take(address, caller_class, 1).map_err(|why| match why {
            NoPlace::Node => NotListed::Node,
            NoPlace::Address => NotListed::Address,
        })
    }

    /// Waits for a turn, which lasts until the returned value is dropped. Code that has a turn must not wait for
    /// anything else.
    pub(super) async fn turn(&self, address: IpAddr, caller: &Caller) -> Result<Turn, NotListed> {
        let user = caller.role.map(|_| &*caller.user);
        self.turns.take(address, user).await.ok_or(NotListed::TooLate)
    }
}

impl Listing {
    /// Answers with a list without secrets, as JSON. A long one is compressed if the client accepts that, which is a
    /// part of the turn. A list with secrets must not be compressed. Otherwise an attacker who registers instances and
    /// sees how long the answers to others are could guess the secrets in them.
    pub(super) fn json_without_secrets(self, list: &impl Serialize) -> Response<Body> {
        let response = codings::json(list, self.gzip);
        self.answer(response)
    }

    /// Ends the turn. The place is held until the answer is delivered or dropped.
    pub(super) fn answer(self, response: Response<Body>) -> Response<Body> {
        let Self { place, turn, .. } = self;
        drop(turn);
        response.map(|inner| Body::new(Held { inner, _place: place }))
    }
}

/// A handler must have this as its last argument, because the turn begins when it is extracted.
impl<S> FromRequestParts<S> for Listing
where
    S: Sync,
    Arc<Lists>: FromRef<S>,
{
    type Rejection = Response<Body>;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Self::Rejection> {
        let Ok(CalledBy(caller)) = CalledBy::from_request_parts(parts, state).await;
        let Ok(context) = RequestContext::from_request_parts(parts, state).await;
        let listing = Arc::<Lists>::from_ref(state).begin(context.client.ip, &caller).await;
        let gzip = codings::accepts(&parts.headers, "gzip");
        listing
            .map(|listing| Self { gzip, ..listing })
            .map_err(|why| edge_error(parts.uri.path(), why.into()))
    }
}

/// The body of a list. It holds the list's place.
struct Held {
    inner: Body,
    _place: Place,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use maxine_state::Role;

    async fn begin(lists: &Lists, last: u8) -> Result<Listing, NotListed> {
        lists.begin([10, 0, 0, last].into(), &Caller::default()).await
    }

    fn delivered(listing: Listing) -> Response<Body> {
        listing.answer(Response::new(Body::from("[]")))
    }

    #[tokio::test]
    async fn an_address_has_a_limited_number_of_undelivered_lists() {
        let lists = Lists::new(NodeTurns::new(1));
        let mut held = Vec::new();
        for _ in 0..PLACES.per_address_max {
            held.push(delivered(begin(&lists, 1).await.unwrap()));
        }
        assert_eq!(begin(&lists, 1).await.err(), Some(NotListed::Address));
        begin(&lists, 2).await.expect("another address has places of its own");
        held.pop();
        begin(&lists, 1).await.expect("a delivered answer gives its place back");
    }

    #[tokio::test]
    async fn strangers_do_not_take_the_places_and_turns_of_callers_with_a_credential() {
        let lists = Lists::new(NodeTurns::new(1));
        let mut held = Vec::new();
        let mut last = 0;
        while lists.places.taken() < PLACES.max - PLACES.reserved {
            match begin(&lists, last).await {
                Ok(listing) => held.push(delivered(listing)),
                Err(_) => last += 1,
            }
        }
        assert_eq!(begin(&lists, 255).await.err(), Some(NotListed::Node));
        held.pop();
        let _turn = begin(&lists, 255).await.unwrap();
        let known = Caller { role: Some(Role::Viewer), ..Caller::default() };
        lists.begin([10, 0, 1, 1].into(), &known).await.expect("a caller with a credential");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_waits_for_its_turn_but_not_forever() {
        let lists = Lists::new(NodeTurns::new(1));
        let building = begin(&lists, 1).await.unwrap();
        assert_eq!(begin(&lists, 2).await.err(), Some(NotListed::TooLate));
        let mut waiting = Box::pin(begin(&lists, 2));
        assert!(futures::poll!(&mut waiting).is_pending());
        let undelivered = delivered(building);
        waiting.await.expect("the turn ends when the list is built, not when it is delivered");
        drop(undelivered);
        assert_eq!(lists.places.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_many_lists_does_not_go_before_another_one() {
        let lists = Lists::new(NodeTurns::new(1));
        let building = begin(&lists, 1).await.unwrap();
        let mut waiting: Vec<_> = (0..10).map(|_| Box::pin(begin(&lists, 1))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let mut other = Box::pin(begin(&lists, 2));
        assert!(futures::poll!(&mut other).is_pending());
        drop(delivered(building));
        other.await.expect("it waits for one list, and not for all of the other address");
    }

    #[tokio::test]
    async fn a_list_whose_client_leaves_in_the_queue_is_not_built() {
        let lists = Lists::new(NodeTurns::new(1));
        let building = begin(&lists, 1).await.unwrap();
        let mut waiting = Box::pin(begin(&lists, 2));
        assert!((&mut waiting).now_or_never().is_none(), "it can be dropped before it has a turn");
        assert!((&mut waiting).now_or_never().is_none(), "another list is built");
        drop(waiting);
        assert_eq!(lists.places.taken(), 1);
        drop(delivered(building));
        assert_eq!(lists.places.taken(), 0);
        begin(&lists, 3).await.expect("the turn is free again");
    }
}
