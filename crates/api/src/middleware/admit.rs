//! Decides whether the caller of a request may use its route, and who the caller is.
//!
//! Place in the flow: the edge calls this before a handler, the forwarding of a request or a look-up begins. The rule
//! comes from the access table. The caller is determined once for each request.

use axum::body::Body;
use axum::http;
use axum::http::header::{self, HeaderValue};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::response::IntoResponse;

use super::edge::Shared;
use crate::access::{self, Decision};
use crate::compat_error::{CompatError, edge_error, is_native};
use crate::{AuthMethod, Caller, RequestContext, hosts};
use maxine_identity::{AuthError, CookieUse, TOKEN_HEADER};
use maxine_state::AuditAction;
use maxine_telemetry::{AccessRefused, Subject};

/// The route of resolutions.
const RESOLVE: &str = "/api/v1/resolve/{namespace}/{service}";

/// Why a request is not admitted to a face.
pub(crate) enum FaceRefusal {
    /// The caller may not use the route.
    NotAllowed(AuthError),
    /// The node must not serve its state; the text says why.
    NotServing(String),
}

impl Shared {
    /// Decides whether the request is admitted on the matched route. Returns the caller, or the answer that refuses the
    /// request.
    pub(crate) fn admit<B>(
        &self,
        request: &http::Request<B>,
        matched: Option<&str>,
        context: &RequestContext,
    ) -> Result<Caller, Box<Response<Body>>> {
        let path = request.uri().path();
        let decision = match matched {
            Some(matched) => self.state.access().of_route(request.method(), matched),
            None => Decision::Unmatched,
        };
        let (access, changes_by_get) = match decision {
            Decision::Route(rule) => (rule.access, rule.changes_by_get),
            Decision::Unmatched | Decision::OtherMethod => (access::of_unmatched(path), false),
            Decision::Undeclared => {
                tracing::error!(route = matched, "a route is missing from the access table");
                let error = CompatError::new(StatusCode::FORBIDDEN, "Forbidden");
                return Err(Box::new(edge_error(path, error)));
            }
        };
        let cookie = match *request.method() {
            Method::GET | Method::HEAD if changes_by_get => CookieUse::Never,
            Method::GET | Method::HEAD => CookieUse::Reads,
            _ => CookieUse::Changes,
        };
        let caller = self.identify(request, access, cookie, context.client.is_https).map_err(
            |(error, caller)| {
                self.note_refusal(request, error, &caller, context);
                Box::new(self.refusal(path, error))
            },
        )?;
        if !access.is_about_the_node(path)
            && let Some(reason) = self.state.not_serving_reason()
        {
            let error = CompatError::new(StatusCode::SERVICE_UNAVAILABLE, reason);
            let retry_after_s = self.state.store().exclusion().is_none().then_some(1);
            return Err(Box::new(edge_error(path, error.with_retry_after_s(retry_after_s))));
        }
        if decision == Decision::OtherMethod {
            let mut refusal = edge_error(path, no_such_method(path));
            if refusal.status() == StatusCode::METHOD_NOT_ALLOWED
                && let Some(methods) =
                    matched.map(|matched| self.state.access().methods_of(matched))
                && let Ok(methods) = HeaderValue::try_from(methods)
            {
                refusal.headers_mut().insert(header::ALLOW, methods);
            }
            return Err(Box::new(refusal));
        }
        Ok(caller)
    }

    /// Decides whether a request may use a route of a face. The face found the token where its protocol has it. The
    /// dashboard's cookie never counts.
    pub(crate) fn admit_to_face<B>(
        &self,
        request: &http::Request<B>,
        access: access::Access,
        token: Option<&str>,
        context: &RequestContext,
    ) -> Result<Caller, FaceRefusal> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            // A token that is no header value is not valid either.
            let token = HeaderValue::try_from(token).unwrap_or(HeaderValue::from_static("-"));
            headers.insert(TOKEN_HEADER, token);
        }
        let identified = {
            let is_https = context.client.is_https;
            self.state.security().identify(CookieUse::Never, is_https, &headers)
        };
        // A token that is not valid is refused where none is needed too. Without the rights of its token, the caller could
        // take an empty list for the whole one.
        let decided = match identified {
            Err(error) if token.is_some() && access != access::Access::Open => {
                Err((error, Caller::default()))
            }
            identified => self.decide(access, identified),
        };
        let caller = decided.map_err(|(error, caller)| {
            self.note_refusal(request, error, &caller, context);
            FaceRefusal::NotAllowed(error)
        })?;
        match self.state.not_serving_reason().filter(|_| access != access::Access::Open) {
            Some(reason) => Err(FaceRefusal::NotServing(reason)),
            None => Ok(caller),
        }
    }

    /// Accounts for a request that was refused.
    fn note_refusal<B>(
        &self,
        request: &http::Request<B>,
        error: AuthError,
        caller: &Caller,
        context: &RequestContext,
    ) {
        let path = request.uri().path();
        self.state.telemetry().access_refused(&AccessRefused {
            forbidden: matches!(error, AuthError::RoleTooLow { .. }),
            user: &caller.user,
            role: caller.role,
            method: request.method(),
            path,
            trace_id: &context.trace_id,
        });
        if error.is_audited() {
            let object = format!("{} {path}", request.method());
            let actor = context.actor(caller);
            self.state.audit().record(actor, AuditAction::RequestAuthorize, &object, false);
        }
    }

    /// What requests on this route are. The handlers of look-ups say more.
    pub(super) fn subject_of(&self, method: &Method, matched: Option<&str>) -> Subject {
        let Some(matched) = matched else { return Subject::Other };
        let decision = self.state.access().of_route(method, matched);
        let registers = |rule: &access::Rule| rule.access == access::Access::Registration;
        match decision {
            Decision::Route(rule) if rule.path == RESOLVE => Subject::Lookup(None),
            Decision::Route(rule) if registers(rule) && !method.is_safe() => Subject::Registration,
            _ => Subject::Other,
        }
    }

    fn identify<B>(
        &self,
        request: &http::Request<B>,
        access: access::Access,
        cookie: CookieUse,
        is_https: bool,
    ) -> Result<Caller, (AuthError, Caller)> {
        let identified = self.state.security().identify(cookie, is_https, request.headers());
        // With DNS rebinding, pages of another site could otherwise read what a cookie allows.
        let identified = identified.and_then(|caller| match caller.via {
            AuthMethod::Cookie if !hosts::is_own(&self.state, request) => Err(AuthError::WrongHost),
            _ => Ok(caller),
        });
        self.decide(access, identified)
    }

    /// The decision: whether this caller has the role that the route needs.
    fn decide(
        &self,
        access: access::Access,
        identified: Result<Caller, AuthError>,
    ) -> Result<Caller, (AuthError, Caller)> {
        let settings = self.state.settings();
        let required =
            access.required_role(settings.registration_access, settings.discovery_access);
        let Some(required) = required else {
            // No credential is required, but the audit log names a caller that has a valid one.
            return Ok(identified.unwrap_or_default());
        };
        let caller = identified.map_err(|error| (error, Caller::default()))?;
        if !caller.has(required) {
            return Err((AuthError::RoleTooLow { required }, caller));
        }
        Ok(caller)
    }

    /// A refusal in the format of the API to which the path belongs. The compatible API has fixed texts. The native API
    /// says what is missing, and treats an invalid token like a missing one.
    fn refusal(&self, path: &str, error: AuthError) -> Response<Body> {
        let retry_after_s = match error {
            AuthError::Stale { .. } | AuthError::NoState => Some(5),
            AuthError::KeysAwaited => Some(1),
            _ => None,
        };
        if !is_native(path) {
            let text = self.state.with_reason(error.to_string());
            return CompatError::new(error.status(), text)
                .with_retry_after_s(retry_after_s)
                .into_response();
        }
        let status = match error {
            AuthError::Invalid => StatusCode::UNAUTHORIZED,
            other => other.status(),
        };
        let text = self.state.with_reason(error.explanation());
        edge_error(path, CompatError::new(status, text).with_retry_after_s(retry_after_s))
    }
}

/// The compatible API answers 404 to a wrong method, and the native API answers 405.
fn no_such_method(path: &str) -> CompatError {
    if is_native(path) {
        let text = "this path does not support the method; the OpenAPI document lists its methods";
        return CompatError::new(StatusCode::METHOD_NOT_ALLOWED, text);
    }
    CompatError::not_found()
}
