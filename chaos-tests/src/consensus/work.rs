//! The commands of clients and leaders, and what they learn from the replies.

use std::collections::BTreeMap;

use bytes::Bytes;
use maxine_raft::simulation::{Dice, Workload};
use maxine_state::{
    Actor, Address, Batch, Command, Deregistration, Fence, InstanceKey, Name, Proposal,
    Registration, Reply, RequestId, ServiceKey, decode_applied, decode_batch, encode_batch,
};

const INSTANCES: u64 = 6;
const WALL_BASE_MS: u64 = 1_700_000_000_000;

/// Clients that register and deregister, and send some writes twice. Leaders that ask for a grant and expire
/// leases with the last fence that they know.
#[derive(Default)]
pub(super) struct Work {
    next: u64,
    /// Each client's last write, which may be sent again.
    last: BTreeMap<usize, Bytes>,
    /// The lease of each instance, from the last reply.
    leases: BTreeMap<InstanceKey, u64>,
    /// The newest fence of each node.
    fences: BTreeMap<u64, Fence>,
}

fn key(nth: u64) -> InstanceKey {
    let service = ServiceKey::new(Name::trusted("default"), Name::trusted("service"));
    service.instance(Name::trusted(&format!("instance-{nth}")))
}

impl Work {
    fn propose(&mut self, who: &str, fence: Option<Fence>, command: Command) -> Bytes {
        self.next += 1;
        let proposal = Proposal {
            request_id: RequestId(u128::from(self.next)),
            proposed_at_ms: WALL_BASE_MS + self.next,
            fence,
            actor: Actor::system(who),
            command,
        };
        let batch = Batch { proposals: vec![proposal] };
        encode_batch(&batch).expect("a small batch can be encoded").into()
    }
}

impl Workload for Work {
    fn client(&mut self, client: usize, dice: &mut Dice) -> Bytes {
        if let Some(last) = self.last.get(&client)
            && dice.percent(20)
        {
            return last.clone();
        }
        let nth = dice.range(0, INSTANCES);
        let key = key(nth);
        let command = if dice.percent(70) {
            let port = 1_024 + self.next % 60_000;
            let address = Address::parse(&format!("http://10.0.0.1:{port}"));
            let address = address.expect("a port from 1024 on makes an address");
            let registration = Registration::new(key.instance.clone(), address, 5_000);
            Command::Register { items: vec![(key.service, registration)] }
        } else {
            let lease_epoch = self.leases.get(&key).copied();
            Command::Deregister {
                items: vec![Deregistration { key, lease_epoch, forget_drain: false }],
            }
        };
        let payload = self.propose("client", None, command);
        self.last.insert(client, payload.clone());
        payload
    }

    fn leader(&mut self, node: u64, dice: &mut Dice) -> Bytes {
        let name = format!("node-{node}");
        let fence = self.fences.get(&node).copied();
        let holder = Name::trusted(&name);
        match fence {
            Some(_) if !dice.percent(15) => {
                let items: Vec<_> =
                    self.leases.iter().map(|(key, epoch)| (key.clone(), *epoch)).collect();
                let nth = dice.range(0, items.len() as u64);
                let item = items.into_iter().nth(usize::try_from(nth).unwrap_or(0));
                self.propose(&name, fence, Command::Expire { items: item.into_iter().collect() })
            }
            _ => self.propose(&name, None, Command::GrantLeadership { holder }),
        }
    }

    fn answered(&mut self, payload: &Bytes, reply: &Bytes) {
        let (Ok(batch), Ok(replies)) = (decode_batch(payload), decode_applied(reply)) else {
            return;
        };
        for (proposal, applied) in batch.proposals.iter().zip(replies) {
            match (&proposal.command, applied.reply) {
                (Command::Register { items }, Reply::Registered(epochs)) => {
                    for ((service, registration), epoch) in items.iter().zip(epochs) {
                        if let Ok(epoch) = epoch {
                            self.leases.insert(service.instance(registration.id.clone()), epoch);
                        }
                    }
                }
                (Command::GrantLeadership { holder }, Reply::Granted(fence)) => {
                    let node = holder.as_str().strip_prefix("node-").and_then(|id| id.parse().ok());
                    if let Some(node) = node {
                        self.fences.insert(node, fence);
                    }
                }
                _ => {}
            }
        }
    }
}
