//! Connects the face for clients of Consul with the edge of the API, which decides access for both.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::assemble::Assembled;
use super::settings;
use crate::config::NodeConfig;
use maxine_api::access::Access;
use maxine_api::face::{
    AnswerRoom, Face, FaceRequest, answer_len_max, read_ended, registration_refusal,
};
use maxine_api::{AppState, Caller};
use maxine_consul::{
    Asked, Consul, ConsulMetrics, ConsulParts, Guard, NAMESPACE, PARTITION, Right, reaper,
};
use maxine_gateway::ClientAddr;
use maxine_state::{InstanceKey, Registration};

/// The face, with what the edge needs of it.
#[derive(Clone)]
pub(super) struct ConsulFace {
    consul: Consul,
    state: AppState,
}

/// Builds the face of a node.
pub(super) fn face(state: &AppState, config: &NodeConfig, metrics: ConsulMetrics) -> ConsulFace {
    let consul = Consul::new(ConsulParts {
        clock: state.clock().clone(),
        view: Arc::clone(state.view()),
        store: Arc::clone(state.store()),
        registry: state.registry().clone(),
        names: settings::consul_names(config),
        blocked: state.settings().watchers,
        turns: Arc::clone(state.answer_turns()),
        metrics,
    });
    ConsulFace { consul, state: state.clone() }
}

/// The leader's duty behind `DeregisterCriticalServiceAfter`. Every node has it, because any of them may lead.
pub(super) fn reaper(
    assembled: &Assembled,
    metrics: ConsulMetrics,
) -> impl Future<Output = ()> + Send + use<> {
    let state = &assembled.state;
    let (registry, view) = (state.registry().clone(), Arc::clone(state.view()));
    reaper::run(registry, view, state.clock().clone(), assembled.duties.clone(), metrics)
}

impl ConsulFace {
    /// Follows the changes of the registry.
    pub(super) fn follow(&self) -> impl Future<Output = ()> + Send + use<> {
        self.consul.clone().follow()
    }
}

/// Decides about registrations of one caller, and about answers to it.
struct CallerGuard {
    state: AppState,
    caller: Caller,
    client: ClientAddr,
    room: AnswerRoom,
}

impl Guard for CallerGuard {
    fn refusal(
        &self,
        key: &InstanceKey,
        registration: &Registration,
    ) -> Option<(StatusCode, String)> {
        registration_refusal(&self.state, &self.caller, &self.client, key, registration)
    }

    fn ended(&self) -> Option<(StatusCode, String)> {
        read_ended(&self.state, &self.caller)
    }

    fn answer_len_max(&self) -> usize {
        answer_len_max(&self.state, &self.caller, &self.client, &self.room)
    }
}

impl Face for ConsulFace {
    fn takes(&self, path: &str) -> bool {
        Consul::takes(path)
    }

    fn access(&self, method: &Method, path: &str) -> Access {
        match Consul::right(method, path) {
            Right::Open => Access::Open,
            Right::Discovery => Access::Discovery,
            Right::Viewer => Access::Viewer,
            Right::Registration => Access::Registration,
            Right::Operator => Access::Operator,
        }
    }

    fn token(&self, uri: &Uri, headers: &HeaderMap) -> Option<String> {
        Consul::token(uri, headers)
    }

    fn body_len_max(&self, method: &Method, path: &str) -> Option<usize> {
        Consul::body_len_max(method, path)
    }

    fn refusal(&self, status: StatusCode, text: String) -> Response<Bytes> {
        self.consul.refusal(status, text)
    }

    fn answer(self: Arc<Self>, request: FaceRequest) -> BoxFuture<'static, Response<Bytes>> {
        let FaceRequest { method, uri, headers, body, caller, context, room } = request;
        let asked = Asked {
            method,
            uri,
            accept: headers.get(header::ACCEPT).cloned(),
            namespace: headers.get(NAMESPACE).cloned(),
            partition: headers.get(PARTITION).cloned(),
            body,
            actor: context.actor(&caller),
            is_known: caller.role.is_some(),
            caller_class: caller.class(),
            client: context.client.ip,
            answer_by_ms: context.answer_by_ms,
            guard: Box::new(CallerGuard {
                state: self.state.clone(),
                caller,
                client: context.client,
                room,
            }),
        };
        async move { self.consul.answer(&asked).await }.boxed()
    }
}
