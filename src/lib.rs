//! Maxine: a control plane for service-to-service traffic. `ARCHITECTURE.md` has the picture.

pub mod actors;
pub mod api;
pub mod app;
pub mod backend;
pub mod cli;
pub mod config;
pub mod discovery;
mod faults;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod health;
pub mod places;
pub mod proxy;
pub mod security;
pub mod telemetry;
pub mod words;
