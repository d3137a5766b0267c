//! HTTP: the compatible API, the native API and the dashboard's files.
//!
//! Place in the flow: [`serve`] accepts connections, and `connection` reads their requests. `route` decides what a
//! request asks for: the fast path and the [`Front`] answer look-ups and forward requests; the router has the rest.
//! [`middleware::Edge`] gives a request its trace ids, decides access on its route, and accounts for it. Handlers read
//! from the view and write through the [`maxine_actors::Registry`]. This crate names no concrete backend.

pub mod access;
mod answering;
mod audit_relay;
mod body;
pub mod caller;
mod client_stream;
mod codings;
mod compat;
pub mod compat_error;
mod connection;
mod connection_place;
mod credential_check;
pub mod face;
mod fast_path;
mod field_names;
mod front;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hosts;
mod http2;
mod linger;
mod listen;
mod listener;
mod lists;
mod look_ups;
pub mod middleware;
pub mod native;
mod observations;
mod openapi;
mod origins;
mod own_password;
mod pending_records;
mod performance_report;
pub mod problem;
mod provisional;
mod recorded;
mod registrants;
mod reserved;
mod route;
mod router;
mod routes;
mod send_monitor;
pub mod serve;
mod serve_limits;
mod settings;
mod state;
mod status_of_error;
mod stopping;
mod tls;
mod turn_read;
mod ui;
mod unread_body;
mod well_formed;

use axum::Router;

pub use audit_relay::AuditRelay;
pub(crate) use caller::CalledBy;
pub use caller::{AuthMethod, Caller, RequestContext};
use compat::open_session;
pub use front::Front;
pub use hosts::name_of as host_name;
pub use listen::listen;
pub use recorded::Recorded;
pub use router::document as openapi_document;
pub use serve_limits::ServeLimits;
pub use settings::ApiSettings;
pub use state::{AppParts, AppState};

/// The routes of a node that lie behind its [`Front`].
pub fn router(state: AppState) -> Router {
    router::build(state)
}
