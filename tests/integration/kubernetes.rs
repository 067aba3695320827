//! What is in `deploy/` for Kubernetes: the manifests of Kustomize, and that both they and the chart's fit its schemas.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use volume_reaper::{
    config::{Config, SETTINGS},
    queue::Queues,
};

use crate::deploy::{deploy, run, settings_are_known, texts, yaml};

/// The schemas of Kubernetes' objects.
pub(crate) async fn schemas() -> PathBuf {
    let schemas = run(deploy("local/kubernetes-schemas"), &[]).await;
    assert!(schemas.status.success(), "{schemas:?}");
    PathBuf::from(String::from_utf8(schemas.stdout).expect("a path").trim())
}

/// Whether an object is one of Kubernetes' own, which have schemas here.
pub(crate) fn is_its_own(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().expect("text");
    !["keda.sh/", "monitoring.coreos.com/"].iter().any(|group| version.starts_with(group))
}

/// Fails unless `object` fits its schema, which refuses what Kubernetes would drop without a word.
pub(crate) fn fits(object: &Value, schemas: &Path) {
    let schema = |name: &str| -> Value {
        let text = std::fs::read_to_string(schemas.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        serde_json::from_str(&text).expect("JSON")
    };
    let resource = |value| jsonschema::Draft::Draft202012.create_resource(value);
    let [version, kind] = ["apiVersion", "kind"].map(|field| object[field].as_str().expect("text"));
    let version = version.replace(".k8s.io", "").replace('/', "-");
    let file = format!("{}-{version}.json", kind.to_lowercase());
    let registry = jsonschema::Registry::new()
        .add("schemas:/api/_definitions.json", resource(schema("_definitions.json")))
        .expect("a document")
        .add("schemas:/api/it.json", resource(schema(&file)))
        .expect("a document")
        .prepare()
        .expect("documents");
    let validator = jsonschema::options().with_registry(&registry).build(&json!({ "$ref": "schemas:/api/it.json" }));
    let validator = validator.expect("a valid schema");
    let errors: Vec<_> =
        validator.iter_errors(object).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{kind}: {errors:#?}");
    let mut misspelt = object.clone();
    misspelt["sepc"] = json!({});
    assert!(!validator.is_valid(&misspelt), "{kind}: the schema knows what there is");
}

/// What `kubectl` makes of the overlay.
async fn manifests() -> Vec<Value> {
    let kubectl = run(deploy("local/kubectl"), &[]).await;
    assert!(kubectl.status.success(), "{kubectl:?}");
    let kubectl = String::from_utf8(kubectl.stdout).expect("a path");
    let folder = deploy("kubernetes/keda").display().to_string();
    let built = run(kubectl.trim(), &["kustomize", &folder]).await;
    assert!(built.status.success(), "{built:?}");
    let text = String::from_utf8(built.stdout).expect("text");
    text.split("\n---\n").map(yaml).collect()
}

fn of_kind<'a>(manifests: &'a [Value], kind: &str) -> &'a Value {
    manifests.iter().find(|manifest| manifest["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[tokio::test]
async fn the_manifests_of_kubernetes_are_built_and_fit_its_schemas() {
    let manifests = manifests().await;
    let schemas = schemas().await;
    let own: Vec<_> = manifests.iter().filter(|manifest| is_its_own(manifest)).collect();
    for manifest in &own {
        fits(manifest, &schemas);
    }
    let mut kinds: Vec<_> = own.iter().map(|manifest| manifest["kind"].as_str().expect("text")).collect();
    kinds.sort_unstable();
    let expected = ["ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn the_settings_of_kubernetes_are_settings_and_its_objects_fit_together() {
    let manifests = manifests().await;
    settings_are_known("the ConfigMap", texts(&of_kind(&manifests, "ConfigMap")["data"]));
    let pod = &of_kind(&manifests, "Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    for variable in container["env"].as_array().expect("variables") {
        assert!(SETTINGS.iter().any(|setting| variable["name"] == setting.env), "{variable}");
    }
    let config = Config::load(|_| None, &HashMap::new(), None).expect("the defaults");
    assert!(pod["terminationGracePeriodSeconds"].as_u64().expect("seconds") > config.shutdown_grace.as_secs());
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], of_kind(&manifests, "ConfigMap")["metadata"]["name"]);

    let replicas = &of_kind(&manifests, "Deployment")["spec"]["replicas"];
    assert!(replicas.is_null(), "each apply would undo what KEDA scaled to");
    let scaled = &of_kind(&manifests, "ScaledObject")["spec"];
    assert_eq!(scaled["scaleTargetRef"]["name"], of_kind(&manifests, "Deployment")["metadata"]["name"]);
    // As https://keda.sh/docs/latest/scalers/rabbitmq-queue/ has them.
    let trigger = &scaled["triggers"][0];
    let metadata = texts(&trigger["metadata"]);
    let known = ["protocol", "queueName", "mode", "value", "activationValue", "vhostName", "excludeUnacknowledged"];
    assert!(metadata.keys().all(|name| known.contains(&name.as_str())), "{metadata:?}");
    assert_eq!((metadata["protocol"].as_str(), &metadata["queueName"]), ("http", &Queues::new(&config).work()));
    assert_eq!(trigger["authenticationRef"]["name"], of_kind(&manifests, "TriggerAuthentication")["metadata"]["name"]);
}
