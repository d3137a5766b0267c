//! A client of Maxine.
//!
//! [`Client`] keeps instances registered, and chooses instances of other services from a cache that a watch keeps,
//! without a request to a node. If a node fails, it asks the others. [`Client::send`] and [`Client::layer`] send
//! requests to the chosen instances. Cloning is cheap; all futures can be dropped safely.
//!
//! [`compatible`] has the calls of the Node.js Maxine.

mod calls;
mod client;
mod clock;
pub mod compatible;
mod credentials;
mod error;
mod hook;
mod instances;
mod layer;
mod nodes;
mod options;
mod order;
mod path;
mod provider;
mod registration;
mod resolver;
mod resolvers;
mod sse;
mod tls;
pub mod trace;

pub use client::Client;
pub use credentials::ClientCredentials;
pub use error::Error;
pub use hook::Hook;
pub use instances::{Instance, Request};
pub use layer::{Resolving, ResolvingLayer};
pub use options::{Attempt, Call, Options};
pub use provider::ClientCredentialsOptions;
pub use registration::{KeptInstance, NewInstance};
pub use resolver::{Chosen, Resolver};
pub use tls::ClientCertificate;
