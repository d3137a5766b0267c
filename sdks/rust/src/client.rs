//! A client of the nodes of one cluster.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::calls::{TRIES_MAX, choose, directed, may_repeat};
use crate::error::{Error, with_causes};
use crate::layer::ResolvingLayer;
use crate::nodes::{Asked, Nodes};
use crate::options::Options;
use crate::registration::{KeptInstance, NewInstance, Registrar};
use crate::resolver::Resolver;
use crate::resolvers::Resolvers;
use crate::trace::Outcome;

/// A client of the nodes of one cluster. Clones share everything.
///
/// It needs a tokio runtime with time and I/O. End it with [`Client::stop`], so that callers do not wait for leases.
#[derive(Clone)]
pub struct Client {
    nodes: Arc<Nodes>,
    registrar: Arc<Registrar>,
    resolvers: Arc<Resolvers>,
}

impl Client {
    /// A client of the nodes at these addresses, such as `http://10.0.0.1:8080`; at least one. No node is asked.
    ///
    /// # Errors
    /// [`Error::Settings`] if the addresses or the options cannot be used.
    pub fn new<S: AsRef<str>>(
        nodes: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<Self, Error> {
        let urls = nodes.into_iter().map(|node| node.as_ref().trim_end_matches('/').to_owned());
        let nodes = Arc::new(Nodes::new(urls.collect(), options)?);
        let registrar = Arc::new(Registrar::new(Arc::clone(&nodes)));
        let resolvers = Arc::new(Resolvers::new(Arc::clone(&nodes)));
        Ok(Self { nodes, registrar, resolvers })
    }

    /// Registers an instance, and keeps it registered until it or the client is stopped.
    ///
    /// # Errors
    /// If the nodes refuse it, or none has confirmed it in time.
    pub async fn register(
        &self,
        service: &str,
        id: &str,
        instance: NewInstance,
    ) -> Result<KeptInstance, Error> {
        self.registrar.register(service, id, instance).await
    }

    /// Reads the instances of a service that get traffic, and follows their changes. `zone` is the zone of this client,
    /// for policies that prefer it.
    ///
    /// # Errors
    /// If the nodes refuse it, or none has answered in time.
    pub async fn resolver(&self, service: &str, zone: Option<&str>) -> Result<Resolver, Error> {
        self.resolvers.open(service, zone).await
    }

    /// Sends a request to an instance: the host of its URL is a service, such as in `http://payments/invoices/7`.
    ///
    /// If an instance refuses the connection, another one is tried, up to three in all; after other errors only for
    /// `GET`, `HEAD` and `OPTIONS`. A request whose body is a stream is sent once. The time limit is that of the
    /// request or of its reqwest client; an instance that lets it pass is not avoided. Services whose names are not
    /// valid hosts, or have capital letters, need a [`Resolver`].
    ///
    /// # Errors
    /// [`Error::NoInstance`] if no instance gets traffic; [`Error::Transport`] if none of those tried has answered.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let (http, request) = request.build_split();
        let mut next = request?;
        let service = next.url().host_str().unwrap_or_default().to_owned();
        let resolver = self.resolvers.of(&service, None).await?;
        let url = next.url().clone();
        let mut tries = 1;
        loop {
            let copy = next.try_clone();
            let chosen = choose(&resolver, next.headers(), url.query())?;
            *next.url_mut() = directed(&chosen.instance().address, &url)?;
            chosen.inject(next.headers_mut());
            let method = next.method().clone();
            let error = match http.execute(next).await {
                Ok(answer) => {
                    let status = Some(answer.status());
                    chosen.end(&Outcome { status, ..Outcome::default() });
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let is_unreached = error.is_connect() || !(error.is_timeout() || error.is_builder());
            let text = with_causes(&error);
            let error_text = Some(text.as_str());
            chosen.end(&Outcome { status: None, error: error_text, failed: is_unreached });
            match copy {
                Some(copy) if is_unreached && tries < TRIES_MAX && may_repeat(&method, &error) => {
                    next = copy;
                    tries += 1;
                }
                _ => return Err(error.into()),
            }
        }
    }

    /// A layer of `tower` for services that send HTTP requests: the host of a request's URL is a service of Maxine.
    #[must_use]
    pub fn layer(&self) -> ResolvingLayer {
        ResolvingLayer::new(Arc::clone(&self.resolvers))
    }

    /// Sends a request of the native API to the nodes, and returns the JSON of the answer. It may arrive more than
    /// once.
    ///
    /// # Errors
    /// If the nodes refuse it, or none has answered in time.
    pub async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let asked = Asked { body, ..Asked::new(method, path) };
        Ok(self.nodes.json(&asked).await?.0)
    }

    /// Deregisters all instances, waits for callers that still have them, and ends the work in the background.
    ///
    /// # Errors
    /// The first error of a deregistration. That instance stays until its lease expires.
    pub async fn stop(&self, drain: Duration) -> Result<(), Error> {
        let (had_instances, stopped) = self.registrar.stop().await;
        if had_instances {
            tokio::time::sleep(drain).await;
        }
        self.resolvers.stop();
        stopped
    }

    /// Waits until the process is asked to end (`SIGTERM` or `SIGINT`), then does [`Client::stop`].
    ///
    /// # Errors
    /// As [`Client::stop`]; [`Error::Settings`] if the signals cannot be received.
    pub async fn stop_on_signals(&self, drain: Duration) -> Result<(), Error> {
        asked_to_end()
            .await
            .map_err(|error| Error::Settings(format!("signals cannot be received: {error}")))?;
        self.stop(drain).await
    }
}

#[cfg(unix)]
async fn asked_to_end() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

#[cfg(not(unix))]
async fn asked_to_end() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
