//! Maxine: a control plane for service-to-service traffic. `ARCHITECTURE.md` has the picture.

pub mod app;
pub mod cli;
pub mod config;
