//! Ids of services and checks through the API of Consul: each is unique on its node.

use maxine_state::{Actor, Address, Expiry, Name, Registration, ServiceKey};
use serde_json::{Value, json};

use super::{Server, run, until};

impl Server {
    /// The node, id and address of each instance of a service.
    async fn places(&self, service: &str) -> Vec<(String, String, String)> {
        let answer = self.get(&format!("catalog/service/{service}")).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all =
            answer.body.as_array().unwrap().iter().map(|one| {
                (text(&one["Node"]), text(&one["ServiceID"]), text(&one["ServiceAddress"]))
            });
        let mut all: Vec<_> = all.collect();
        all.sort();
        all
    }

    async fn in_catalog(&self, body: Value) {
        let answer = self.put("catalog/register", body).await;
        assert_eq!((answer.status, &answer.body), (200, &json!(true)));
    }

    /// The states of the checks of a service.
    async fn states(&self, service: &str) -> Vec<String> {
        let answer = self.get(&format!("health/checks/{service}")).await;
        let all = answer.body.as_array().unwrap().iter();
        all.map(|check| check["Status"].as_str().unwrap().to_owned()).collect()
    }
}

fn place(node: &str, id: &str, address: &str) -> (String, String, String) {
    (node.into(), id.into(), address.into())
}

/// Otherwise anybody who may register could keep an instance of another owner from reporting, and end its locks.
#[test]
fn a_check_of_another_node_with_the_same_id_takes_nothing_from_the_agents_check() {
    run(async {
        let server = Server::start(|_| {}).await;
        let check = json!({"TTL": "600s", "Status": "passing"});
        let pay =
            json!({"ID": "pay-1", "Name": "pay", "Address": "10.9.0.1", "Port": 1, "Check": check});
        let stranger = |status: &str| {
            json!({
                "Node": "laptop", "Address": "10.9.0.66", "Service": {"Service": "junk"},
                "Check": {"CheckID": "service:pay-1", "Name": "x", "Status": status},
            })
        };
        server.register(pay.clone()).await;
        let session = json!({"Checks": ["service:pay-1"], "LockDelay": "0s"});
        let session = server.put_known("session/create", session).await.body["ID"].clone();
        let acquire = format!("kv/lock?acquire={}", session.as_str().unwrap());
        assert_eq!(server.put_known(&acquire, json!(1)).await.body, json!(true));

        server.in_catalog(stranger("passing")).await;
        server.in_catalog(stranger("critical")).await;
        let holder = server.get_known("kv/lock").await.body[0]["Session"].clone();
        assert_eq!(holder, session, "the lock depends on the agent's check");
        for (route, pay_is) in [("warn", "warning"), ("pass", "passing")] {
            let path = format!("agent/check/{route}/service:pay-1");
            assert_eq!(server.put(&path, Value::Null).await.status, 200);
            assert_eq!(server.states("pay").await, [pay_is]);
            assert_eq!(server.states("junk").await, ["critical"]);
        }
        server.register(pay).await;
        // The checks of a session are those of its node.
        let here = json!({"ServiceChecks": [{"ID": "service:pay-1"}]});
        assert_eq!(server.put_known("session/create", here).await.status, 200);
        let there = json!({"Node": "Laptop", "Checks": ["service:pay-1"]});
        let there = server.put_known("session/create", there).await;
        assert_eq!(there.status, 400, "its check is critical: {}", there.body);
        let nowhere = json!({"Node": "nowhere", "Checks": ["service:pay-1"]});
        assert_eq!(server.put_known("session/create", nowhere).await.status, 400);

        // The order in which the instances are read after a restart changes nothing.
        let server = server.restart().await;
        until("a write after the restart", async || {
            server.put("agent/check/fail/service:pay-1", Value::Null).await.status == 200
        })
        .await;
        assert_eq!(server.states("pay").await, ["critical"]);
        server.in_catalog(stranger("passing")).await;
        assert_eq!(server.states("pay").await, ["critical"]);
        let gone = server.put("catalog/deregister", json!({"Node": "laptop"})).await;
        assert_eq!(gone.body, json!(true));
        assert_eq!(server.put("agent/check/pass/service:pay-1", Value::Null).await.status, 200);
        assert_eq!(server.states("pay").await, ["passing"]);
        // The check of another node is no check of the agent.
        server
            .in_catalog(json!({
                "Node": "laptop", "Address": "10.9.0.66", "Service": {"Service": "junk"},
                "Check": {"CheckID": "only-there", "Status": "critical"},
            }))
            .await;
        for path in ["agent/check/pass/only-there", "agent/check/deregister/only-there"] {
            assert_eq!(server.put(path, Value::Null).await.status, 404, "{path}");
        }
        server.node.stop().await;
    });
}

/// A check that belongs to one service cannot be that of another one on the same node, whichever route registers it.
#[test]
fn a_check_of_the_same_node_with_the_same_id_is_refused() {
    run(async {
        let server = Server::start(|_| {}).await;
        let check = json!({"CheckID": "up", "Status": "critical"});
        let on = |node: &str, service: &str| {
            json!({
                "Node": node, "Address": "10.9.0.1", "Service": {"Service": service},
                "Check": check.clone(),
            })
        };
        server.in_catalog(on("laptop", "one")).await;
        server.in_catalog(on("laptop", "one")).await;
        let refused = server.put("catalog/register", on("Laptop", "two")).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.text().contains("belongs to the service \"one\""), "{}", refused.body);
        server.in_catalog(on("tower", "two")).await;
        server.in_catalog(on("maxine", "three")).await;
        let body = json!({"Name": "four", "Port": 1, "Check": {"CheckID": "up", "TTL": "9s"}});
        let refused = server.put("agent/service/register", body).await;
        assert!(refused.text().contains("belongs to the service \"three\""), "{}", refused.body);
        let checks = json!([{"CheckID": "up", "TTL": "9s"}, {"CheckID": "up", "TTL": "8s"}]);
        let twice = json!({"Name": "three", "Port": 1, "Checks": checks});
        assert_eq!(server.put("agent/service/register", twice).await.status, 400);
        server.node.stop().await;
    });
}

#[test]
fn ids_of_checks_that_maxine_adds_are_refused_from_clients() {
    run(async {
        let server = Server::start(|_| {}).await;
        server.register(json!({"Name": "web", "Port": 1})).await;
        for id in ["serfHealth", "_node_maintenance", "_service_maintenance:web"] {
            let check = json!({"CheckID": id, "TTL": "60s", "Status": "critical"});
            let of_agent = json!({"Name": "web", "Port": 1, "Check": check});
            let alone = json!({"Name": id, "TTL": "60s", "ServiceID": "web"});
            let of_catalog = json!({
                "Node": "laptop", "Address": "10.9.0.1", "Service": {"Service": "web"},
                "Check": {"CheckID": id, "Status": "critical"},
            });
            for (path, body) in [
                ("agent/service/register", of_agent),
                ("agent/check/register", alone),
                ("catalog/register", of_catalog),
            ] {
                let refused = server.put_known(path, body).await;
                assert_eq!(refused.status, 400, "{path} {id}: {}", refused.body);
                assert!(refused.text().contains("is reserved"), "{path}: {}", refused.body);
            }
        }
        assert_eq!(server.places("web").await.len(), 1);
        server.node.stop().await;
    });
}

/// It would become a check of a service that its client did not mean.
#[test]
fn a_check_that_names_another_service_or_node_than_its_registration_is_refused() {
    run(async {
        let server = Server::start(|_| {}).await;
        let with = |check: Value| {
            json!({
                "Node": "laptop", "Address": "10.9.0.1", "Service": {"Service": "web", "ID": "web-1"},
                "Checks": [check],
            })
        };
        for check in [
            json!({"CheckID": "up", "ServiceID": "other"}),
            json!({"CheckID": "up", "ServiceID": "web"}),
            json!({"CheckID": "up", "Node": "tower"}),
        ] {
            let refused = server.put("catalog/register", with(check.clone())).await;
            assert_eq!(refused.status, 400, "{check}: {}", refused.body);
            assert!(refused.text().contains("that of the registration"), "{}", refused.body);
        }
        assert!(server.places("web").await.is_empty());
        let own = json!({"CheckID": "up", "Node": "LAPTOP", "ServiceID": "web-1"});
        server.in_catalog(with(own)).await;
        assert_eq!(server.states("web").await, ["critical"]);
        server.node.stop().await;
    });
}

/// A node has each id once, whichever route registered it.
#[test]
fn the_catalog_and_the_agent_replace_each_others_services_of_the_agents_node() {
    run(async {
        let server = Server::start(|_| {}).await;
        let of_agent = |name: &str| json!({"ID": "app-1", "Name": name, "Address": "10.0.0.1"});
        let of_catalog = |name: &str| {
            json!({
                "Node": "MAXINE", "Address": "10.0.0.9", "Service": {"Service": name, "ID": "app-1"},
                "Check": {"CheckID": "up", "Status": "passing"},
            })
        };
        server.register(of_agent("app")).await;
        server.in_catalog(of_catalog("app")).await;
        assert_eq!(server.places("app").await, [place("maxine", "app-1", "10.0.0.9")]);
        server.in_catalog(of_catalog("app2")).await;
        assert!(server.places("app").await.is_empty());
        assert_eq!(server.places("app2").await, [place("maxine", "app-1", "10.0.0.9")]);
        let services = server.get_known("agent/services").await;
        assert_eq!(services.body["app-1"]["Service"], "app2");
        assert_eq!(server.put("agent/check/warn/up", Value::Null).await.status, 200);
        assert_eq!(server.states("app2").await, ["warning"]);

        // An instance of another API can have the same id. It does not take the place of this one.
        let url = format!("http://{}/api/v1/services/default", server.node.http_addr());
        let native = server.client.put(format!("{url}/a/instances/app-1"));
        let native = native.json(&json!({"address": "http://10.0.0.5:1", "ttl_ms": 3_600_000}));
        assert!(native.send().await.unwrap().status().is_success());
        let node = server.get_known("catalog/node/maxine").await;
        assert_eq!(node.body["Services"]["app-1"]["Service"], "app2", "{}", node.body);

        server.register(of_agent("app")).await;
        assert!(server.places("app2").await.is_empty());
        assert_eq!(server.places("app").await, [place("maxine", "app-1", "10.0.0.1")]);
        server.in_catalog(of_catalog("app2")).await;
        let one = json!({"Node": "maxine", "ServiceID": "app-1"});
        assert_eq!(server.put("catalog/deregister", one).await.body, json!(true));
        assert!(server.places("app2").await.is_empty());
        server.in_catalog(of_catalog("app2")).await;
        assert_eq!(server.put("agent/service/deregister/app-1", Value::Null).await.status, 200);
        assert!(server.places("app2").await.is_empty());
        server.node.stop().await;
    });
}

/// Nodes that accepted the same id under several names at the same time can leave more than one instance.
#[test]
fn every_instance_with_an_id_is_replaced_and_deregistered() {
    run(async {
        let server = Server::start(|_| {}).await;
        let namespace = Name::trusted(ServiceKey::DEFAULT_NAMESPACE);
        let leave = async |id: &str, node: Option<&str>, about: &str| {
            let item = |service: &str| {
                let address = Address::parse("http://10.0.0.1:1").unwrap();
                let mut registration = Registration::new(Name::trusted(id), address, 5_000);
                registration.expiry = Expiry::Never;
                registration.node = node.map(Name::trusted);
                let entry = (Name::trusted("consul-service"), Box::<str>::from(about));
                registration.metadata = vec![entry].into();
                (ServiceKey::new(namespace.clone(), Name::trusted(service)), registration)
            };
            let items = Vec::from(["a", "b", "c"].map(item));
            let registry = server.node.registry();
            registry.register(Actor::system("test"), None, None, items).await.unwrap();
        };
        let count = async || {
            let mut count = 0;
            for service in ["a", "b", "c"] {
                count += server.places(service).await.len();
            }
            count
        };
        let of_agent = r#"{"through":"agent"}"#;
        leave("x", None, of_agent).await;
        assert_eq!(count().await, 3);
        assert_eq!(server.put("agent/service/deregister/x", Value::Null).await.status, 200);
        assert_eq!(count().await, 0);
        leave("x", None, of_agent).await;
        server.register(json!({"ID": "x", "Name": "b", "Address": "10.0.0.2"})).await;
        assert_eq!(server.places("b").await, [place("maxine", "x", "10.0.0.2")]);
        assert_eq!(count().await, 1);

        let of_catalog = r#"{"through":"catalog","id":"y"}"#;
        leave("y@laptop", Some("laptop"), of_catalog).await;
        assert_eq!(count().await, 4);
        let service = json!({"Service": "c", "ID": "y"});
        server
            .in_catalog(json!({"Node": "Laptop", "Address": "10.0.0.3", "Service": service}))
            .await;
        assert_eq!(server.places("c").await, [place("laptop", "y", "10.0.0.3")]);
        assert_eq!(count().await, 2);
        leave("y@laptop", Some("laptop"), of_catalog).await;
        let one = json!({"Node": "laptop", "ServiceID": "y"});
        assert_eq!(server.put("catalog/deregister", one).await.body, json!(true));
        assert_eq!(count().await, 1);
        // An instance of the agent's node whose own id is another one.
        leave("x@maxine", Some("Maxine"), r#"{"through":"catalog","id":"x"}"#).await;
        assert_eq!(count().await, 4);
        server.register(json!({"ID": "x", "Name": "b", "Address": "10.0.0.4"})).await;
        assert_eq!(server.places("b").await, [place("maxine", "x", "10.0.0.4")]);
        assert_eq!(count().await, 1);
        server.node.stop().await;
    });
}

/// An instance would overwrite one of another owner.
#[test]
fn ids_and_nodes_with_an_at_sign_do_not_meet() {
    run(async {
        let server = Server::start(|_| {}).await;
        let on = |node: &str, id: &str, address: &str| json!({"Node": node, "Address": address, "Service": {"Service": "at", "ID": id}});
        server.in_catalog(on("laptop", "a1", "10.9.1.1")).await;
        server.register(json!({"ID": "a1@laptop", "Name": "at", "Address": "10.9.1.2"})).await;
        server.register(json!({"ID": "a1%40laptop", "Name": "at", "Address": "10.9.1.3"})).await;
        server.in_catalog(on("b@c", "a", "10.9.1.4")).await;
        server.in_catalog(on("c", "a@b", "10.9.1.5")).await;
        let all = [
            place("b@c", "a", "10.9.1.4"),
            place("c", "a@b", "10.9.1.5"),
            place("laptop", "a1", "10.9.1.1"),
            place("maxine", "a1%40laptop", "10.9.1.3"),
            place("maxine", "a1@laptop", "10.9.1.2"),
        ];
        assert_eq!(server.places("at").await, all);
        let own = server.get_known("agent/services").await;
        let ids: Vec<_> = own.body.as_object().unwrap().keys().collect();
        assert_eq!(ids, ["a1%40laptop", "a1@laptop"]);
        // Each is found and removed by the id that its client gave.
        assert_eq!(server.get("agent/service/a1@laptop").await.body["ID"], "a1@laptop");
        for id in ["a1@laptop", "a1%2540laptop"] {
            let path = format!("agent/service/deregister/{id}");
            assert_eq!(server.put(&path, Value::Null).await.status, 200, "{id}");
        }
        assert_eq!(server.places("at").await, all[..3]);
        for (node, id) in [("c", "a@b"), ("laptop", "a1")] {
            let body = json!({"Node": node, "ServiceID": id});
            assert_eq!(server.put("catalog/deregister", body).await.body, json!(true));
        }
        assert_eq!(server.places("at").await, all[..1]);
        server.node.stop().await;
    });
}

/// Names are kept as they are written, and found without regard to case.
#[test]
fn services_whose_names_differ_only_in_case_are_read_as_one() {
    run(async {
        let server = Server::start(|_| {}).await;
        let register = |name: &'static str, id: &'static str| {
            server.register(json!({"ID": id, "Name": name, "Address": "10.0.0.1", "Port": 1}))
        };
        register("web", "w-1").await;
        register("Web", "w-2").await;
        for name in ["web", "Web", "WEB"] {
            let path = format!("health/service/{name}");
            let found = server.get(&path).await;
            let shown = |at: usize| found.body[at]["Service"]["Service"].clone();
            assert_eq!((found.len(), shown(0), shown(1)), (2, json!("Web"), json!("web")));
            assert_eq!(server.places(name).await.len(), 2, "{name}");
            let health = server.get(&format!("agent/health/service/name/{name}")).await;
            assert_eq!((health.status, health.len()), (200, 2), "{name}");
            let read = async || {
                let index = server.get(&path).await.index();
                let wait = format!("{path}?wait=2m&index={index}");
                (index, wait)
            };
            // A waiting reader wakes for every spelling: when it comes, when it changes and when it leaves.
            let (index, wait) = read().await;
            let (woken, ()) = tokio::join!(server.get(&wait), register("wEB", "w-3"));
            assert!(woken.len() == 3 && woken.index() > index, "{name}: {}", woken.body);
            let (index, wait) = read().await;
            let drain = "agent/service/maintenance/w-1?enable=true";
            let drain = server.put_known(drain, Value::Null);
            let (woken, drained) = tokio::join!(server.get(&wait), drain);
            assert_eq!(drained.status, 200);
            assert!(woken.len() == 3 && woken.index() > index, "{name}: {}", woken.body);
            let (index, wait) = read().await;
            let leave = server.put("agent/service/deregister/w-3", Value::Null);
            let (woken, left) = tokio::join!(server.get(&wait), leave);
            assert_eq!(left.status, 200);
            assert!(woken.len() == 2 && woken.index() > index, "{name}: {}", woken.body);
            // So does one that did not wait at the moment.
            register("wEB", "w-3").await;
            let (index, wait) = read().await;
            server.put("agent/service/deregister/w-3", Value::Null).await;
            let late = server.get(&wait).await;
            assert!(late.len() == 2 && late.index() > index, "{name}: {}", late.body);
            let end = "agent/service/maintenance/w-1?enable=false";
            assert_eq!(server.put_known(end, Value::Null).await.status, 200);
        }
        // A name that nobody has yet is waited for in whatever case it comes.
        for (asked, name) in [("LATE", "late"), ("later", "Later")] {
            let path = format!("catalog/service/{asked}");
            let path = format!("{path}?wait=2m&index={}", server.get(&path).await.index());
            let (woken, ()) = tokio::join!(server.get(&path), register(name, name));
            assert_eq!(woken.len(), 1, "{asked}: {}", woken.body);
        }
        // A change of another service wakes nobody.
        let index = server.get("health/service/WEB").await.index();
        let path = format!("health/service/WEB?wait=150ms&index={index}");
        let (same, ()) = tokio::join!(server.get(&path), register("other", "o-1"));
        assert_eq!(same.index(), index);
        let listed = server.get_known("catalog/services").await;
        assert!(listed.body.get("web").is_some() && listed.body.get("Web").is_some());
        server.node.stop().await;
    });
}

/// A reader of the node's services does not wake for it.
#[test]
fn the_status_of_a_check_does_not_change_the_index_of_its_service() {
    run(async {
        let server = Server::start(|_| {}).await;
        let check = json!({"CheckID": "c", "TTL": "600s", "Status": "passing"});
        let service = json!({"Name": "s", "Address": "10.9.0.1", "Port": 1, "Check": check});
        server.register(service).await;
        assert_eq!(server.put("agent/check/fail/c", json!(null)).await.status, 200);
        let answer = server.get_known("catalog/node-services/maxine").await;
        let service = &answer.body["Services"][0];
        assert!(service["ModifyIndex"].as_u64().unwrap() <= answer.index(), "{service}");
        let answer = server.get_known("health/checks/s").await;
        assert_eq!(answer.body[0]["ModifyIndex"], answer.index(), "the check's changes");
    });
}

/// One reader never sees the new address with the former status.
#[test]
fn a_new_address_and_a_new_status_of_a_check_are_one_change() {
    run(async {
        let server = Server::start(|_| {}).await;
        let node = |address: &str, status: &str| {
            json!({
                "Node": "n", "Address": "10.9.0.1",
                "Service": {"Service": "s", "Address": address, "Port": 1},
                "Check": {"CheckID": "c", "Name": "c", "Status": status},
            })
        };
        server.in_catalog(node("10.9.0.1", "passing")).await;
        for round in 2..20 {
            let before = server.get("health/service/s").await.index();
            let path = format!("health/service/s?index={before}&wait=20s");
            let address = format!("10.9.0.{round}");
            let status = if round % 2 == 0 { "critical" } else { "passing" };
            let (seen, ()) =
                tokio::join!(server.get(&path), server.in_catalog(node(&address, status)));
            let entry = &seen.body[0];
            assert_eq!(entry["Service"]["Address"], address.as_str());
            let mut checks = entry["Checks"].as_array().unwrap().iter();
            let check = checks.find(|check| check["CheckID"] == "c").unwrap();
            assert_eq!(check["Status"], status, "{round}: {entry}");
        }
    });
}
