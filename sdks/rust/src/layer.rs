//! A layer of `tower`: sends requests to instances that this client chooses.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Uri;
use http::{header, request};
use http_body::Body;
use reqwest::Url;
use tower_layer::Layer;
use tower_service::Service;

use crate::calls::{TRIES_MAX, choose, directed, may_repeat};
use crate::error::{Error, with_causes};
use crate::resolver::Chosen;
use crate::resolvers::Resolvers;
use crate::trace::Outcome;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes [`Resolving`] services. [`Client::layer`](crate::Client::layer) creates it.
#[derive(Clone)]
pub struct ResolvingLayer {
    resolvers: Arc<Resolvers>,
    zone: Option<Arc<str>>,
    suffix: Arc<str>,
}

impl ResolvingLayer {
    pub(crate) fn new(resolvers: Arc<Resolvers>) -> Self {
        Self { resolvers, zone: None, suffix: "".into() }
    }

    /// Sets the zone of this client, for policies that prefer it.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        Self { zone: Some(zone.into()), ..self }
    }

    /// Makes only hosts with this end services, for example `.maxine` in `http://payments.maxine/`. Other requests go
    /// where they name.
    #[must_use]
    pub fn suffix(self, suffix: &str) -> Self {
        Self { suffix: suffix.into(), ..self }
    }
}

impl<S> Layer<S> for ResolvingLayer {
    type Service = Resolving<S>;

    fn layer(&self, inner: S) -> Resolving<S> {
        Resolving { inner, layer: self.clone() }
    }
}

/// Sends each request through `S` to an instance that is chosen for it: the host of a request's URL is a service, such
/// as in `http://payments/invoices/7`. The scheme and the port of the URL are ignored.
///
/// If an instance refuses the connection, another one is tried, up to three in all; after other errors of `S` only for
/// `GET`, `HEAD` and `OPTIONS`. A request with content is sent once. An instance for which `S` has given an error is
/// avoided for some seconds.
#[derive(Clone)]
pub struct Resolving<S> {
    inner: S,
    layer: ResolvingLayer,
}

impl<S, B, R> Service<http::Request<B>> for Resolving<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Default + Send + 'static,
    R: 'static,
{
    type Response = http::Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<R>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        // The clone need not be ready, so it takes the place of the one that is.
        let next = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, next);
        Box::pin(send(self.layer.clone(), inner, request))
    }
}

async fn send<S, B, R>(
    layer: ResolvingLayer,
    mut inner: S,
    request: http::Request<B>,
) -> Result<http::Response<R>, BoxError>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Error: Into<BoxError>,
    B: Body + Default,
{
    let host = request.uri().host().unwrap_or_default();
    let Some(service) = host.strip_suffix(&*layer.suffix).map(str::to_owned) else {
        return inner.call(request).await.map_err(Into::into);
    };
    let resolver = layer.resolvers.of(&service, layer.zone.as_deref()).await?;
    let (parts, mut body) = request.into_parts();
    let url = url_of(&parts)?;
    let mut tries = 1;
    loop {
        let has_content = !body.is_end_stream();
        let chosen = choose(&resolver, &parts.headers, url.query())?;
        let to = directed_parts(&parts, &chosen, &url)?;
        let error: BoxError = match inner.call(http::Request::from_parts(to, body)).await {
            Ok(answer) => {
                let status = Some(answer.status());
                chosen.end(&Outcome { status, ..Outcome::default() });
                return Ok(answer);
            }
            Err(error) => error.into(),
        };
        let text = with_causes(&*error);
        chosen.end(&Outcome { status: None, error: Some(&text), failed: true });
        if has_content || tries == TRIES_MAX || !may_repeat(&parts.method, &*error) {
            return Err(error);
        }
        body = B::default();
        tries += 1;
        let ready = poll_fn(|context| inner.poll_ready(context)).await;
        ready.map_err(Into::<BoxError>::into)?;
    }
}

/// The URL that a request names, with the service as its host.
fn url_of(parts: &request::Parts) -> Result<Url, Error> {
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    Url::parse(&format!("http://service{target}"))
        .map_err(|error| Error::Malformed(format!("the target {target:?}: {error}")))
}

/// A request as it is sent to the chosen instance.
fn directed_parts(
    parts: &request::Parts,
    chosen: &Chosen,
    url: &Url,
) -> Result<request::Parts, Error> {
    let to = directed(&chosen.instance().address, url)?;
    let mut parts = parts.clone();
    parts.uri = Uri::try_from(to.as_str())
        .map_err(|error| Error::Malformed(format!("the address {to}: {error}")))?;
    parts.headers.remove(header::HOST);
    chosen.inject(&mut parts.headers);
    Ok(parts)
}
