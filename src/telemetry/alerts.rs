//! Alerts: what an operator should look at now.

use std::collections::VecDeque;

use parking_lot::Mutex;
use serde::Serialize;

/// How urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Look when there is time.
    Warning,
    /// Look now.
    Critical,
}

/// One alert.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Alert {
    /// Its number on this node, from 1.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// How urgent.
    pub severity: Severity,
    /// The kind, such as `upstream.evicted`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in one line.
    pub message: String,
    /// The particulars.
    #[schema(value_type = Object)]
    pub details: serde_json::Map<String, serde_json::Value>,
    /// Who has seen it, if anyone said so.
    pub acknowledged_by: Option<String>,
    /// Whether a silence kept it from the webhook.
    pub silenced: bool,
}

/// A kind of alert that nobody wants to hear of for a while. It is still listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Silence {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// Why, in the operator's words.
    pub reason: String,
    /// Who said so.
    pub by: String,
}

/// Most kinds that are silenced at once.
const SILENCES_MAX: usize = 64;

#[derive(Debug, Default)]
struct Kept {
    next_id: u64,
    alerts: VecDeque<Alert>,
    silences: Vec<Silence>,
}

/// The latest alerts of this node.
#[derive(Debug)]
pub struct Alerts {
    len_max: usize,
    kept: Mutex<Kept>,
}

impl Alerts {
    pub(super) fn new(len_max: usize) -> Self {
        Self { len_max, kept: Mutex::default() }
    }

    /// Keeps an alert; answers it with its number, and with whether it is silenced.
    pub(super) fn push(&self, mut alert: Alert) -> Alert {
        let mut kept = self.kept.lock();
        kept.next_id += 1;
        alert.id = kept.next_id;
        let now_ms = alert.time_ms;
        alert.silenced = kept.silences.iter().any(|s| s.kind == alert.kind && s.until_ms > now_ms);
        if self.len_max > 0 {
            if kept.alerts.len() == self.len_max {
                kept.alerts.pop_front();
            }
            kept.alerts.push_back(alert.clone());
        }
        alert
    }

    /// The alerts, newest first.
    #[must_use]
    pub fn newest_first(&self) -> Vec<Alert> {
        self.kept.lock().alerts.iter().rev().cloned().collect()
    }

    /// Notes that somebody has seen an alert; `false` if there is none of this number.
    pub fn acknowledge(&self, id: u64, by: &str) -> bool {
        let mut kept = self.kept.lock();
        let Some(alert) = kept.alerts.iter_mut().find(|alert| alert.id == id) else {
            return false;
        };
        alert.acknowledged_by = Some(by.into());
        true
    }

    /// Keeps a kind of alert from the webhook until `until_ms`; `false` if too many are silenced.
    pub fn silence(&self, silence: Silence, now_ms: u64) -> bool {
        let mut kept = self.kept.lock();
        kept.silences.retain(|s| s.kind != silence.kind && s.until_ms > now_ms);
        if silence.until_ms <= now_ms {
            return true;
        }
        if kept.silences.len() >= SILENCES_MAX {
            return false;
        }
        kept.silences.push(silence);
        true
    }

    /// The silences in force.
    #[must_use]
    pub fn silences(&self, now_ms: u64) -> Vec<Silence> {
        self.kept.lock().silences.iter().filter(|s| s.until_ms > now_ms).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(time_ms: u64) -> Alert {
        Alert {
            id: 0,
            time_ms,
            severity: Severity::Critical,
            kind: "upstream.evicted".into(),
            message: "gone".into(),
            details: serde_json::Map::new(),
            acknowledged_by: None,
            silenced: false,
        }
    }

    #[test]
    fn alerts_are_numbered_acknowledged_and_silenced() {
        let alerts = Alerts::new(2);
        assert_eq!(alerts.push(alert(1)).id, 1);
        assert!(alerts.acknowledge(1, "ada"));
        let until = |until_ms| Silence {
            kind: "upstream.evicted".into(),
            until_ms,
            reason: String::new(),
            by: "a".into(),
        };
        assert!(alerts.silence(until(10), 2));
        assert!(alerts.push(alert(9)).silenced);
        assert!(!alerts.push(alert(10)).silenced);
        let ids: Vec<u64> = alerts.newest_first().iter().map(|a| a.id).collect();
        assert_eq!(ids, [3, 2]);
        assert!(!alerts.acknowledge(1, "ada"));
        assert!(alerts.silence(until(0), 3));
        assert!(alerts.silences(3).is_empty());
    }
}
