//! Identities of others: people who sign in at an OpenID provider, and workloads with the token of an issuer.
//!
//! Place in the flow: [`sign_in`] proves who a person is, and the API then opens a session of Maxine's own, as for a
//! password. [`workload`] checks the token of each request of a workload, with keys that [`crate::Security::keep_keys`]
//! has fetched, so that no request waits for an issuer. Nothing here is replicated: each node has the same file.

mod keys;
mod metadata;
mod remembered;
mod remote;
mod settings;
pub(crate) mod sign_in;
mod source;
mod ticket;
mod workload;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use maxine_admission::WorkTurns;
use maxine_clock::Clock;

pub use settings::OutsideSettings;
pub use sign_in::{
    Begun, BegunDevice, Callback, Polled, Proven, ProviderError, ProviderName, Return,
};

use remembered::SignIns;
use remote::Remote;
use settings::{Issuer, Provider, Scope};
use source::{Place, Source};
use workload::Verified;

/// Maximum number of questions to one provider at the same time.
const QUESTIONS_MAX: usize = 32;
/// Maximum number of those from one address.
const QUESTIONS_OF_ADDRESS_MAX: usize = 8;

struct OfProvider {
    settings: Provider,
    source: Arc<Source>,
    /// For sign-ins at this provider. A provider that is silent fills its own places only.
    questions: WorkTurns,
    /// For questions about sign-ins on another device, so that these take no place of other sign-ins.
    polls: WorkTurns,
    /// The sign-ins whose code was sent to this provider by this node.
    finished: Arc<SignIns>,
    /// The sign-ins on another device about which this node has asked this provider.
    asked: Arc<SignIns>,
}

struct OfIssuer {
    settings: Issuer,
    source: Arc<Source>,
}

/// What follows from one reading of the file.
#[derive(Default)]
struct Config {
    public_url: Option<String>,
    providers: Vec<Arc<OfProvider>>,
    issuers: Vec<OfIssuer>,
}

/// The identities of others on this node.
pub(super) struct Outside {
    config: ArcSwap<Config>,
    clock: Clock,
    /// Tokens of workloads that were checked, by their hash.
    verified: Mutex<HashMap<[u8; 32], Verified>>,
    wake: Notify,
}

impl Outside {
    /// Nobody from outside may come in, until [`Self::set`].
    pub(super) fn new(clock: Clock) -> Self {
        Self { config: ArcSwap::default(), clock, verified: Mutex::default(), wake: Notify::new() }
    }

    /// Takes new settings. Keys that are known stay known, and sign-ins that were finished stay finished. Blocks.
    pub(super) fn set(&self, settings: &OutsideSettings) -> Result<(), String> {
        let former = self.config.load_full();
        let mut config = Config { public_url: settings.public_url.clone(), ..Config::default() };
        for provider in &settings.providers {
            let named = |text| format!("provider {}: {text}", provider.name);
            let scope = Scope::of(&provider.issuer);
            let remote = Remote::new(provider.ca_file.as_deref(), scope).map_err(named)?;
            let source = Source::new(&provider.issuer, Place::Discovery, None, remote);
            let source = Arc::new(source);
            let known = former.providers.iter().map(|former| &former.source);
            source.take_over(known);
            let mut of_name = former.providers.iter();
            let own = of_name.find(|former| former.settings.name == provider.name);
            let (finished, asked) = own
                .map(|own| (Arc::clone(&own.finished), Arc::clone(&own.asked)))
                .unwrap_or_default();
            config.providers.push(Arc::new(OfProvider {
                settings: provider.clone(),
                source,
                questions: WorkTurns::new(QUESTIONS_MAX, QUESTIONS_OF_ADDRESS_MAX),
                polls: WorkTurns::new(QUESTIONS_MAX, QUESTIONS_OF_ADDRESS_MAX),
                finished,
                asked,
            }));
        }
        for issuer in &settings.issuers {
            let named = |text| format!("issuer {}: {text}", issuer.name);
            // A `jwks_url` was set by the operator, and not by the issuer.
            let scope = match issuer.jwks_url {
                Some(_) => Scope::Machine,
                None => Scope::of(&issuer.issuer),
            };
            let remote = Remote::new(issuer.ca_file.as_deref(), scope).map_err(named)?;
            let place = match (&issuer.jwks_url, &issuer.jwks_file) {
                (Some(url), _) => Place::Url(url.clone()),
                (None, Some(path)) => Place::File(path.clone()),
                (None, None) => Place::Discovery,
            };
            let token_file = issuer.bearer_token_file.clone();
            let source = Arc::new(Source::new(&issuer.issuer, place, token_file, remote));
            source.take_over(former.issuers.iter().map(|former| &former.source));
            config.issuers.push(OfIssuer { settings: issuer.clone(), source });
        }
        self.config.store(Arc::new(config));
        self.verified.lock().clear();
        self.wake.notify_one();
        Ok(())
    }
}
