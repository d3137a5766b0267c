//! Creates the identities that a cluster needs before anyone can sign in. The leader does this when it takes
//! over.

use rand::TryRngCore;
use rand::rngs::OsRng;

use maxine_actors::{Registry, WriteError, WriteRequest};
use maxine_identity::{Account, PasswordCaller, Passwords, Secret, SecuritySettings, hex};
use maxine_state::{Actor, Command, Identities, Name, Rejection, Role, User};
use maxine_view::View;

/// A random password that must be shown once. It is not stored anywhere.
#[derive(Clone, Debug)]
pub struct OneTimePassword {
    /// The user's name.
    pub user_name: String,
    /// The password. Show it to the operator and drop it.
    pub password: Secret,
}

/// Why the identities could not be created.
#[derive(Debug, thiserror::Error)]
pub(super) enum BootstrapError {
    /// The log did not accept them. A retry is safe.
    #[error("the identities could not be written: {0}")]
    Write(#[from] WriteError),
    /// The operating system provides no random numbers, or the password cost is invalid.
    #[error("the identities could not be made: {0}")]
    Make(String),
}

/// Ensures that the cluster has an identity, that the accounts match the environment, and
/// that there is an administrator. The leader runs it when it takes over. If several nodes run it at the same
/// time, each object is created once. Returns the first administrator's password if it was created now.
pub(super) async fn ensure_identities(
    registry: &Registry,
    view: &View,
    settings: &SecuritySettings,
) -> Result<Option<OneTimePassword>, BootstrapError> {
    let snapshot = view.snapshot();
    let identities = snapshot.state.identities();
    let passwords = Passwords::new(settings.password_cost);
    if identities.cluster.is_empty() {
        let id = Name::trusted(&random_hex(16)?);
        propose_once(registry, Command::IdentifyCluster { id }).await?;
    }
    for account in &settings.accounts {
        ensure_account(registry, identities, &passwords, account).await?;
    }
    let unset = |user: &&std::sync::Arc<User>| {
        user.managed && !settings.accounts.iter().any(|a| a.user_name == user.name.as_str())
    };
    for user in identities.users.values().filter(unset) {
        tracing::warn!(
            user = %user.name,
            "the environment does not set this account any more: its last password still opens it, until it is changed \
             (maxine passwd) or the account is deleted (maxine user delete)"
        );
        propose_once(registry, put_user(&user.name, user.role, user.password_hash.clone())).await?;
    }
    let admin_set = settings.accounts.iter().any(|account| account.role == Role::Admin);
    let admin_there = identities.users.values().any(|user| user.role == Role::Admin);
    if admin_set || admin_there {
        return Ok(None);
    }
    make_first_admin(registry, &passwords, &settings.first_admin).await
}

async fn make_first_admin(
    registry: &Registry,
    passwords: &Passwords,
    user_name: &str,
) -> Result<Option<OneTimePassword>, BootstrapError> {
    let password = random_hex(16)?;
    let hash = hash(passwords, &password).await?;
    let name = Name::parse("admin_username", user_name)
        .map_err(|error| BootstrapError::Make(error.to_string()))?;
    let mut command = put_user(&name, Role::Admin, hash);
    if let Command::PutUser { create_only, .. } = &mut command {
        *create_only = true;
    }
    let made = propose_once(registry, command).await?;
    let password = Secret::new(&password);
    Ok(made.then(|| OneTimePassword { user_name: user_name.into(), password }))
}

async fn ensure_account(
    registry: &Registry,
    identities: &Identities,
    passwords: &Passwords,
    account: &Account,
) -> Result<(), BootstrapError> {
    let name = Name::parse("username", &account.user_name)
        .map_err(|error| BootstrapError::Make(error.to_string()))?;
    // The password of the environment, which the operator of the node has set.
    let password = account.password.expose();
    if let Some(user) = identities.users.get(&name) {
        let hash = Some(user.password_hash.clone());
        let same = user.managed && user.role == account.role;
        if same && passwords.verify(password, hash, PasswordCaller::Known).await.unwrap_or(false) {
            return Ok(());
        }
    }
    let hash = hash(passwords, password).await?;
    let mut command = put_user(&name, account.role, hash);
    if let Command::PutUser { managed, .. } = &mut command {
        *managed = true;
    }
    propose_once(registry, command).await?;
    Ok(())
}

fn put_user(name: &Name, role: Role, password_hash: Box<str>) -> Command {
    Command::PutUser {
        name: name.clone(),
        role,
        password_hash,
        managed: false,
        create_only: false,
        expected_version: None,
    }
}

async fn hash(passwords: &Passwords, password: &str) -> Result<Box<str>, BootstrapError> {
    passwords.hash(password).await.map_err(|error| BootstrapError::Make(error.to_string()))
}

/// Proposes a command. Returns `false` if another leader has created the object.
async fn propose_once(registry: &Registry, command: Command) -> Result<bool, BootstrapError> {
    let actor = Actor::system("bootstrap");
    let request =
        WriteRequest { actor, request_id: None, fence: None, answer_by_ms: None, command };
    match registry.propose(request).await {
        Ok(_) => Ok(true),
        Err(WriteError::Rejected { rejection: Rejection::Exists { .. }, .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn random_hex(len_bytes: usize) -> Result<String, BootstrapError> {
    let mut bytes = vec![0; len_bytes];
    OsRng.try_fill_bytes(&mut bytes).map_err(no_randomness)?;
    Ok(hex(&bytes))
}

fn no_randomness(error: rand::rand_core::OsError) -> BootstrapError {
    BootstrapError::Make(error.to_string())
}
