//! `schemas/asyncapi.yaml` says what the code does, and is an AsyncAPI document.

use std::{collections::HashMap, process::Command};

use lapin::{BasicProperties, message::BasicGetMessage, types::AMQPValue};
use serde_json::{Map, Value, json};
use volume_reaper::{
    config::Config,
    delivery::{event::MAX_BODY_BYTES, settlement::Reason},
    queue::Queues,
};

use crate::{
    event::{schemas, validator},
    world::{On, World, server, world},
};

fn document() -> Value {
    let text = std::fs::read_to_string(schemas().join("asyncapi.yaml")).expect("readable");
    serde_saphyr::from_str(&text).expect("YAML")
}

fn defaults() -> Queues {
    Queues::new(&Config::load(|_| None, &HashMap::new(), None).expect("the defaults are valid"))
}

/// Everything that a document refers to.
fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => {
            let nested = fields.values().flat_map(references);
            fields.get("$ref").and_then(Value::as_str).into_iter().chain(nested).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

fn resolve<'a>(document: &'a Value, reference: &str) -> &'a Value {
    let pointer = reference.strip_prefix('#').expect("within the document");
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference}"))
}

#[test]
fn the_document_fits_the_official_schema() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/local/asyncapi-schema");
    let output = Command::new(script).output().expect("it runs");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let path = String::from_utf8(output.stdout).expect("a path");
    let schema: Value = serde_json::from_slice(&std::fs::read(path.trim()).expect("readable")).expect("JSON");
    let schema = jsonschema::options().should_validate_formats(true).build(&schema).expect("a valid schema");
    let document = document();
    let errors: Vec<_> =
        schema.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(!schema.is_valid(&json!({ "asyncapi": "3.0.0" })), "the schema refuses what has no info");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    for reference in references(&document) {
        match reference.strip_prefix("./") {
            Some(file) => assert!(schemas().join(file).is_file(), "{reference}"),
            None => assert!(!resolve(&document, reference).is_null(), "{reference}"),
        }
    }
}

#[test]
fn every_example_of_a_message_fits_its_schemas() {
    let document = document();
    let messages = document["components"]["messages"].as_object().expect("messages");
    let mut checked = 0;
    for (name, message) in messages {
        for example in message["examples"].as_array().into_iter().flatten() {
            for part in ["headers", "payload"] {
                if let Some(value) = example.get(part) {
                    let schema = validator(&format!("asyncapi.yaml#/components/messages/{name}/{part}"));
                    assert!(schema.is_valid(value), "{name}, {part}: {value}");
                    checked += 1;
                }
            }
        }
    }
    assert_eq!(checked, 7);
}

#[test]
fn names_and_limits_are_those_of_the_default_settings() {
    let (document, queues) = (document(), defaults());
    let channels = &document["channels"];
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let server = &document["servers"]["default"];
    let url = ["protocol", "host", "pathname"].map(|part| server[part].as_str().expect("text"));
    assert_eq!(format!("{}://{}{}", url[0], url[1], url[2]), queues.url.expose());

    let exchange = &channels["threadClosed"]["bindings"]["amqp"]["exchange"];
    assert_eq!(exchange["name"], queues.exchange);
    assert_eq!(channels["threadClosed"]["address"], queues.routing_key);
    assert_eq!(channels["threadReopened"]["address"], queues.reopened_routing_key);
    assert_eq!(channels["threadReopened"]["bindings"]["amqp"]["exchange"], *exchange);
    let bound_to = json!({ "exchange": queues.exchange, "routingKey": queues.routing_key });
    assert_eq!(channels["work"]["bindings"]["amqp"]["x-bound-to"], bound_to);
    for (channel, queue) in [("work", queues.work()), ("deadLetter", queues.dead_letter())] {
        assert_eq!(channels[channel]["address"], queue);
        assert_eq!(channels[channel]["bindings"]["amqp"]["queue"]["name"], queue);
    }
    let delays: Vec<_> = queues.retry_delays.iter().map(|&delay| queues.retry(delay)).collect();
    assert_eq!(retry_queues(&document), delays);

    let reasons = document["components"]["schemas"]["reason"]["enum"].as_array().expect("a list");
    assert_eq!(*reasons, Reason::ALL.map(Reason::as_str));
    for message in ["threadClosed", "threadReopened", "structuredCloudEvent", "binaryCloudEvent"] {
        assert_eq!(document["components"]["messages"][message]["x-max-body-bytes"], MAX_BODY_BYTES);
    }
}

fn retry_queues(document: &Value) -> Vec<String> {
    let retry = &document["channels"]["retry"];
    let address = retry["address"].as_str().expect("text");
    let delays = retry["parameters"]["delay"]["enum"].as_array().expect("a list");
    delays.iter().map(|delay| address.replace("{delay}", delay.as_str().expect("text"))).collect()
}

#[tokio::test]
async fn exchange_and_queues_are_declared_as_the_document_says() {
    let world = world(On::Sqlite).await;
    let _serving = world.serve().await;
    let document = document();
    // The document's names begin with the default prefix, those of this test with its own.
    let ours = |name: &str| name.replacen("volume-reaper", &world.name, 1);

    let mut expected = Vec::new();
    for channel in ["work", "deadLetter"] {
        let binding = &document["channels"][channel]["bindings"]["amqp"];
        let name = binding["queue"]["name"].as_str().expect("a name").to_owned();
        expected.push((name, binding, binding["x-arguments"].clone()));
    }
    let retry = &document["channels"]["retry"]["bindings"]["amqp"];
    for (name, delay) in retry_queues(&document).into_iter().zip(&defaults().retry_delays) {
        let (_, step) = name.rsplit_once('.').expect("dots");
        let mut arguments = retry["x-arguments"].clone();
        arguments["x-message-ttl"] = retry["x-message-ttl-ms"][step].clone();
        assert_eq!(u128::from(arguments["x-message-ttl"].as_u64().expect("a number")), delay.as_millis());
        expected.push((name, retry, arguments));
    }

    let declared = rabbitmqctl(&["list_queues", "name", "durable", "auto_delete", "arguments"]);
    let declared: Vec<_> = declared.iter().filter(|queue| is_of(&world, &queue["name"])).collect();
    assert_eq!(declared.len(), expected.len());
    for (name, binding, mut arguments) in expected {
        let queue = declared.iter().find(|queue| queue["name"] == ours(&name)).expect("it is declared");
        for (documented, found) in [("durable", "durable"), ("autoDelete", "auto_delete")] {
            assert_eq!(binding["queue"][documented], queue[found], "{name}, {documented}");
        }
        // The broker does not say it of quorum queues, which can't be.
        assert_eq!(binding["queue"]["exclusive"], false, "{name}");
        if let Some(key) = arguments.get_mut("x-dead-letter-routing-key") {
            *key = ours(key.as_str().expect("text")).into();
        }
        assert_eq!(arguments_of(queue), arguments, "{name}");
    }

    let exchange = &document["channels"]["threadClosed"]["bindings"]["amqp"]["exchange"];
    let declared = rabbitmqctl(&["list_exchanges", "name", "type", "durable", "auto_delete"]);
    let found = declared.iter().find(|found| is_of(&world, &found["name"])).expect("it is declared");
    for (documented, name) in [("type", "type"), ("durable", "durable"), ("autoDelete", "auto_delete")] {
        assert_eq!(exchange[documented], found[name], "{documented}");
    }
    let bindings = rabbitmqctl(&["list_bindings", "source_name", "destination_name", "routing_key"]);
    let bound: Vec<_> = bindings.iter().filter(|binding| is_of(&world, &binding["source_name"])).collect();
    let key = &document["channels"]["work"]["bindings"]["amqp"]["x-bound-to"]["routingKey"];
    let exchange = format!("{}.threads", world.name);
    let work = world.work_queue();
    assert_eq!(bound, [&json!({ "source_name": exchange, "destination_name": work, "routing_key": key })]);
}

/// Asks the broker that `make test` started.
fn rabbitmqctl(arguments: &[&str]) -> Vec<Value> {
    let program = format!("{}/rabbitmqctl", server("VOLUME_REAPER_TEST_SERVERS"));
    let output = Command::new(program).args(["--quiet", "--formatter", "json"]).args(arguments).output();
    let output = output.expect("it runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn is_of(world: &World, name: &Value) -> bool {
    name.as_str().is_some_and(|name| name.split('.').next() == Some(&world.name))
}

/// RabbitMQ writes each argument as name, type and value.
fn arguments_of(queue: &Value) -> Value {
    let arguments = queue["arguments"].as_array().expect("a list").iter();
    arguments.map(|it| (it[0].as_str().expect("a name").to_owned(), it[2].clone())).collect::<Map<_, _>>().into()
}

#[tokio::test]
async fn headers_of_ours_are_written_as_the_document_says() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "1h");
    let _serving = world.serve().await;
    world.publish(br#"{"thread_id": "nobody"}"#).await;
    let waiting = world.take(&format!("{}.retry.1h", world.name)).await;
    check_headers("waitingHeaders", &waiting);
    // The second attempt is the last one.
    let properties: BasicProperties = waiting.delivery.properties.clone();
    world.publish_with(properties, &waiting.delivery.data).await;
    check_headers("parkedHeaders", &world.dead_letter().await);
    world.publish(b"no event").await;
    check_headers("parkedHeaders", &world.dead_letter().await);
}

/// Whether a message has those headers of ours that the document names for it, and no others.
pub(crate) fn check_headers(schema: &str, message: &BasicGetMessage) {
    let headers = message.delivery.properties.headers().as_ref().expect("headers");
    let ours = headers.inner().iter().filter(|(key, _)| key.as_str().starts_with("volume-reaper-"));
    let found: Map<_, _> = ours.map(|(key, value)| (key.as_str().to_owned(), json_of(value))).collect();
    let found = Value::Object(found);
    let errors: Vec<_> = validator(&format!("asyncapi.yaml#/components/schemas/{schema}"))
        .iter_errors(&found)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{schema}: {errors:?}");
    let document = document();
    for key in found.as_object().expect("an object").keys() {
        assert!(document["components"]["schemas"][schema]["properties"].get(key).is_some(), "{schema} has {key}");
    }
}

fn json_of(value: &AMQPValue) -> Value {
    if let AMQPValue::LongLongInt(number) = value {
        return (*number).into();
    }
    let AMQPValue::LongString(text) = value else { panic!("neither a text nor a number: {value:?}") };
    String::from_utf8_lossy(text.as_bytes()).into()
}
