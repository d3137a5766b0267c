//! Maxine: a control plane for service-to-service traffic. `ARCHITECTURE.md` has the picture.

pub mod actors;
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
