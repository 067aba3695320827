//! The Helm chart: it is what Kustomize makes, as it stands, and what its values say.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Map, Value, json};
use tokio::{io::AsyncWriteExt, process::Command};
use volume_reaper::{config::SETTINGS, queue::Queues};

use crate::{
    deploy::{deploy, read, run, settings_are_known, texts, yaml},
    kubernetes::{fits, is_its_own, schemas},
};

/// A Python with Helm's library.
async fn python() -> PathBuf {
    let tools = run(deploy("local/tools/install"), &[]).await;
    assert!(tools.status.success(), "{tools:?}");
    PathBuf::from(String::from_utf8(tools.stdout).expect("a path").trim()).join("python")
}

/// What `chart.py` prints, or its complaint.
async fn helm(arguments: &[&str], input: &Value) -> Result<String, String> {
    let mut helm = Command::new(python().await);
    helm.arg(deploy("helm/chart.py")).args(arguments);
    let mut helm = helm.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = helm.stdin.take().expect("piped");
    stdin.write_all(input.to_string().as_bytes()).await.expect("written");
    drop(stdin);
    let output = helm.wait_with_output().await.expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn chart() -> String {
    deploy("helm/volume-reaper").display().to_string()
}

/// The objects that the chart makes with these values.
async fn rendered(values: Value) -> Vec<Value> {
    let printed =
        helm(&["render", &chart()], &values).await.unwrap_or_else(|complaint| panic!("{values}: {complaint}"));
    let templates: Map<String, Value> = serde_json::from_str(&printed).expect("JSON");
    let manifests =
        templates.iter().filter(|(template, _)| Path::new(template).extension().is_some_and(|it| it == "yaml"));
    let texts = manifests.flat_map(|(_, text)| text.as_str().expect("text").split("\n---\n"));
    texts.filter(|text| !text.trim().is_empty()).map(yaml).collect()
}

/// What Helm says of values that are refused.
async fn refused(values: Value) -> String {
    helm(&["render", &chart()], &values).await.expect_err("refused")
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind}"))
}

/// An object without what Helm's own labels say of the release, and without the checksum that makes new pods of new
/// settings, which Kustomize does by the name of the `ConfigMap`.
fn without_labels_of_helm(object: &mut Value) {
    match object {
        Value::Object(fields) => {
            for label in ["instance", "version", "managed-by"] {
                fields.remove(&format!("app.kubernetes.io/{label}"));
            }
            fields.remove("helm.sh/chart");
            fields.remove("checksum/settings");
            fields.values_mut().for_each(without_labels_of_helm);
            fields.retain(|name, value| name != "annotations" || value.as_object().is_none_or(|all| !all.is_empty()));
        }
        Value::Array(items) => items.iter_mut().for_each(without_labels_of_helm),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The objects of Kustomize's base, read from its files, so that no kubectl is needed.
fn base() -> Vec<Value> {
    let folder = |file: &str| format!("kubernetes/base/{file}");
    let kustomization = yaml(&read(&folder("kustomization.yaml")));
    let resources = kustomization["resources"].as_array().expect("resources");
    let mut objects: Vec<_> =
        resources.iter().map(|file| yaml(&read(&folder(file.as_str().expect("a file"))))).collect();
    let settings = &kustomization["configMapGenerator"][0];
    let literals = settings["literals"].as_array().expect("literals").iter();
    let data: Map<String, Value> = literals
        .map(|literal| literal.as_str().and_then(|text| text.split_once('=')).expect("name=value"))
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    objects.push(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": settings["name"] }, "data": data,
    }));
    let image = &kustomization["images"][0];
    for object in objects.iter_mut().filter(|object| object["kind"] == "Deployment") {
        let container = &mut object["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["image"], image["name"]);
        container["image"] =
            json!(format!("{}:{}", image["name"].as_str().expect("text"), image["newTag"].as_str().expect("text")));
    }
    objects
}

#[tokio::test]
async fn the_chart_as_it_stands_makes_the_objects_of_kustomizes_base() {
    let mut objects = rendered(json!({})).await;
    let mut expected = base();
    for object in objects.iter_mut().chain(&mut expected) {
        without_labels_of_helm(object);
        // The base's smaller objects have none, to which there is nothing to compare.
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.remove("labels");
    }
    for all in [&mut objects, &mut expected] {
        all.sort_by_key(|object| object["kind"].as_str().expect("text").to_owned());
    }
    assert_eq!(json!(objects), json!(expected));
}

#[tokio::test]
async fn each_way_of_setting_the_chart_makes_objects_that_fit() {
    let schemas = schemas().await;
    let everything = json!({
        "serviceMonitor": { "enabled": true },
        "prometheusRule": { "enabled": true, "labels": { "release": "prometheus" } },
        "dashboard": { "enabled": true }, "keda": { "enabled": true }, "httpTokens": { "existingSecret": "tokens" },
        "image": {
            "digest": format!("sha256:{}", "0".repeat(64)), "pullPolicy": "Always", "pullSecrets": [{ "name": "a" }],
        },
        "extraEnv": [{ "name": "RUST_LOG", "value": "debug" }],
        "extraVolumes": [{ "name": "ca", "configMap": { "name": "ca" } }],
        "extraVolumeMounts": [{ "name": "ca", "mountPath": "/etc/ca" }],
        "serviceAccount": { "annotations": { "a": "b" } }, "podAnnotations": { "a": "b" }, "podLabels": { "team": "a" },
        "nodeSelector": { "a": "b" }, "tolerations": [{ "operator": "Exists" }], "priorityClassName": "high",
        "networkPolicy": {
            "extraIngress": [{ "ports": [{ "port": 1 }] }], "extraEgress": [{ "ports": [{ "port": 22 }] }],
        },
        "fullnameOverride": "reaper",
    });
    let daemonset = json!({ "kind": "DaemonSet", "docker": { "socket": { "enabled": true, "group": 998 } } });
    let bare = json!({
        "podDisruptionBudget": { "enabled": false }, "networkPolicy": { "enabled": false },
        "serviceAccount": { "existing": "theirs" }, "docker": { "tls": { "enabled": false } },
    });
    for (values, kinds) in [(json!({}), 6), (everything, 11), (daemonset, 5), (bare, 3)] {
        let objects = rendered(values.clone()).await;
        assert_eq!(objects.len(), kinds, "{values}");
        objects.iter().filter(|object| is_its_own(object)).for_each(|object| fits(object, &schemas));
    }
}

#[tokio::test]
async fn one_reaper_a_node_has_its_socket_and_its_name() {
    let values = json!({ "kind": "DaemonSet", "docker": { "socket": { "enabled": true, "group": 998 } } });
    let objects = rendered(values).await;
    let settings = texts(&of_kind(&objects, "ConfigMap")["data"]);
    assert_eq!(settings["DOCKER_HOST"], "unix:///var/run/docker.sock");
    assert!(!settings.contains_key("DOCKER_TLS_VERIFY"), "{settings:?}");
    settings_are_known("the chart of a DaemonSet", settings);
    let pod = &of_kind(&objects, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["supplementalGroups"], json!([998]));
    assert_eq!(pod["volumes"][0]["hostPath"]["path"], "/var/run/docker.sock");
    let variables = pod["containers"][0]["env"].as_array().expect("variables");
    let host = variables.iter().find(|variable| variable["name"] == "VOLUME_REAPER_HOST").expect("its name");
    assert_eq!(host["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
}

#[tokio::test]
async fn what_kubernetes_would_not_do_is_refused() {
    let node = json!({ "enabled": true });
    for (values, complaint) in [
        (json!({ "settings": { "DATABASE_URL": "postgres://..." } }), "DATABASE_URL"),
        (json!({ "replcias": 3 }), "replcias"),
        (json!({ "kind": "DaemonSet" }), "docker.socket.enabled"),
        (json!({ "kind": "DaemonSet", "docker": { "socket": node } }), "docker.socket.group"),
        (json!({ "docker": { "socket": { "enabled": true, "group": 998 } } }), "nodeSelector"),
        (
            json!({ "kind": "DaemonSet", "keda": node, "docker": { "socket": { "enabled": true, "group": 998 } } }),
            "a DaemonSet has one pod on each node",
        ),
    ] {
        let said = refused(values.clone()).await;
        assert!(said.contains(complaint), "{values}: {said}");
    }
}

#[tokio::test]
async fn what_watches_it_is_what_lies_in_deploy() {
    let values = json!({
        "serviceMonitor": { "enabled": true }, "prometheusRule": { "enabled": true }, "dashboard": { "enabled": true },
        "keda": { "enabled": true },
    });
    let objects = rendered(values).await;
    assert_eq!(of_kind(&objects, "PrometheusRule")["spec"], yaml(&read("prometheus/alerts.yaml")));
    let values = json!({ "prometheusRule": { "enabled": true, "runbook": "https://wiki.example.com/runbook" } });
    let rule = of_kind(&rendered(values).await, "PrometheusRule")["spec"]["groups"][0]["rules"][0].clone();
    let link = rule["annotations"]["runbook_url"].as_str().expect("a link");
    assert!(link.ends_with("{{ else }}https://wiki.example.com/runbook{{ end }}#volumereaperdown"), "{link}");
    let dashboards = objects.iter().filter(|object| object["metadata"]["labels"]["grafana_dashboard"] == "1");
    let texts: Vec<_> = dashboards.map(|object| object["data"]["volume-reaper.json"].as_str().expect("text")).collect();
    assert_eq!(texts.len(), 1);
    assert_eq!(yaml(texts[0]), yaml(&read("grafana/dashboard.json")));

    let monitor = &of_kind(&objects, "ServiceMonitor")["spec"];
    let service = of_kind(&objects, "Service");
    for (label, value) in monitor["selector"]["matchLabels"].as_object().expect("labels") {
        assert_eq!(service["metadata"]["labels"][label], *value, "{label}");
    }
    assert_eq!(monitor["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);

    assert!(
        of_kind(&objects, "Deployment")["spec"]["replicas"].is_null(),
        "each upgrade would undo what KEDA scaled to"
    );
    // The overlay of Kustomize has the same, and its test what KEDA knows of.
    let overlay = read("kubernetes/keda/scaledobject.yaml");
    let mut theirs = of_kind(&objects, "ScaledObject").clone();
    theirs["metadata"].as_object_mut().expect("metadata").remove("labels");
    assert_eq!(theirs, yaml(overlay.rsplit("\n---\n").next().expect("the second")));
    let config = volume_reaper::config::Config::load(|_| None, &HashMap::new(), None).expect("the defaults");
    assert_eq!(theirs["spec"]["triggers"][0]["metadata"]["queueName"], Queues::new(&config).work());
}

#[tokio::test]
async fn the_chart_is_clean_and_packed_with_its_alerts() {
    let complaints = helm(&["lint", &chart()], &json!({})).await;
    complaints.expect("clean");
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let packed = helm(&["package", &chart(), &dir.path().display().to_string()], &json!({})).await;
    let archive = packed.expect("packed").trim().to_owned();
    let listed = run("tar", &["--list", "--gzip", "--file", &archive]).await;
    let listed = String::from_utf8(listed.stdout).expect("text");
    for file in
        ["Chart.yaml", "values.schema.json", "templates/workload.yaml", "files/alerts.yaml", "files/dashboard.json"]
    {
        assert!(listed.contains(&format!("volume-reaper/{file}\n")), "{file}: {listed}");
    }
}

#[test]
fn chart_kustomize_and_compose_name_this_version() {
    let chart = yaml(&read("helm/volume-reaper/Chart.yaml"));
    let kustomization = yaml(&read("kubernetes/base/kustomization.yaml"));
    for version in [&chart["version"], &chart["appVersion"], &kustomization["images"][0]["newTag"]] {
        assert_eq!(*version, env!("CARGO_PKG_VERSION"));
    }
    let image = format!("${{REAPER_IMAGE:-volume-reaper:{}}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(yaml(&read("compose.yaml"))["services"]["reaper"]["image"], image);
}

#[test]
fn the_charts_schema_takes_every_setting_that_is_no_secret_and_no_secret() {
    let schema: Value = serde_json::from_str(&read("helm/volume-reaper/values.schema.json")).expect("JSON");
    let settings = jsonschema::validator_for(&schema["properties"]["settings"]).expect("a schema");
    for setting in SETTINGS.iter() {
        let mut value = Map::new();
        value.insert(setting.env.to_owned(), json!("x"));
        assert_eq!(settings.is_valid(&Value::Object(value)), !setting.secret, "{}", setting.env);
    }
    let values = yaml(&read("helm/volume-reaper/values.yaml"));
    settings_are_known("values.yaml", texts(&values["settings"]));
}
