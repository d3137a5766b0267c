//! Requests and a state for the tests of several modules.

use http::{Method, StatusCode, Version};

use crate::{AttemptTrail, FinishedRequest, Subject, TraceName};
use maxine_state::{
    Actor, Address, Command, ControlState, Name, Proposal, Registration, RequestId, ServiceKey,
};

/// A request of no known kind, from this machine.
pub(crate) fn request(status: u16) -> FinishedRequest {
    FinishedRequest {
        subject: Subject::Other,
        method: Method::GET,
        target: "/".into(),
        version: Version::HTTP_11,
        client: [127, 0, 0, 1].into(),
        trace_id: TraceName::default(),
        traceparent: TraceName::default(),
        parent_span: None,
        is_https: false,
        started_us: 0,
        duration_us: 0,
        status: StatusCode::from_u16(status).unwrap(),
        attempts: AttemptTrail::default(),
        writes: Vec::new(),
        is_long_poll: false,
    }
}

/// A service of the default namespace.
pub(crate) fn key_of(service: &str) -> ServiceKey {
    ServiceKey::new(Name::trusted("default"), Name::trusted(service))
}

/// A state in which each of these services has one instance.
pub(crate) fn state_with(services: &[&str]) -> ControlState {
    let mut state = ControlState::default();
    let item = |name: &&str| {
        let address = Address::parse("http://10.0.0.1").unwrap();
        (key_of(name), Registration::new(Name::trusted("a"), address, 5_000))
    };
    let proposal = Proposal {
        request_id: RequestId(1),
        proposed_at_ms: 1,
        fence: None,
        actor: Actor::system("test"),
        command: Command::Register { items: services.iter().map(item).collect() },
    };
    state.apply(&proposal, &mut Vec::new());
    state
}
