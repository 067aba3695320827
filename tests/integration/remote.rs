//! `--server`: commands ask a running service, and need neither broker nor database nor Docker.

use std::{process::Output, sync::Arc};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

use crate::{
    api::{ADMIN, OPERATOR, VIEWER, with_tokens},
    tls::{Authority, write},
    world::{On, Serving, World, world},
};

/// A command at a place where nothing else is reached, with this token.
async fn ask_as(world: &World, serving: &Serving, token: &str, arguments: &[&str]) -> Output {
    let mut command = world.command(arguments);
    command
        .env("DATABASE_URL", "postgres://127.0.0.1:1/nowhere")
        .env("AMQP_URL", "amqp://127.0.0.1:1")
        .env("DOCKER_HOST", "unix:///nowhere")
        .env("VOLUME_REAPER_SERVER", format!("http://{}/", serving.http))
        .env("VOLUME_REAPER_SERVER_TOKEN", token);
    command.output().await.expect("it runs")
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn what_a_service_is_asked_for_is_printed_as_if_it_were_found_here() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    for id in ["gone", "away"] {
        world.closed_with_volume(id).await;
        world.publish_closed(id).await;
        world.until_marked(id).await;
    }
    world.closed_with_volume("waits").await;
    world.create_volume("orphan").await;
    world.publish(b"no event").await;
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 1).await;
    for command in [
        &["explain", "gone"][..],
        &["explain", "waits"],
        &["hosts", "list"],
        &["hosts", "list", "--json"],
        &["receipts"],
        &["receipts", "--csv", "--thread", "gone"],
        &["receipts", "--json", "--limit", "1"],
    ] {
        let (there, here) = (ask_as(&world, &serving, VIEWER, command).await, world.run(command).await);
        assert_eq!(text(&there), text(&here), "{command:?}");
    }
    // These have ages, which go on.
    for (command, said) in [
        (&["status"][..], "backlog"),
        (&["orphans"], "orphan  age "),
        (&["orphans"], "1 of 2 volumes belong to no thread"),
        (&["dead-letters", "list", "--reason", "undecodable"], "1 messages are parked, 1 of them are selected"),
        (&["doctor"], "failed"),
    ] {
        let there = ask_as(&world, &serving, VIEWER, command).await;
        let here = world.run(command).await;
        assert_eq!(there.status.code(), here.status.code(), "{command:?}");
        let (there, here) = (String::from_utf8_lossy(&there.stdout), String::from_utf8_lossy(&here.stdout));
        assert!(there.contains(said) && here.contains(said), "{command:?}: {there}\n{here}");
        assert_eq!(there.lines().count(), here.lines().count(), "{command:?}: {there}\n{here}");
    }
    let found = text(&ask_as(&world, &serving, VIEWER, &["dead-letters", "list", "--json"]).await);
    let found: Value = serde_json::from_str(&found).expect("JSON");
    assert_eq!(found["messages"], world.json(&["dead-letters", "list", "--json"]).await["messages"]);
}

#[tokio::test]
async fn what_a_service_is_told_is_done_there_by_who_may() {
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RETRY_DELAYS", "100ms");
    let serving = with_tokens(&mut world).await;
    let tell = async |token: &str, arguments: &[&str]| ask_as(&world, &serving, token, arguments).await;
    let refused = async |token: &str, arguments: &[&str], why: &str| {
        let output = tell(token, arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.lines().count() == 1 && error.contains(why) && !error.contains(token), "{error}");
    };
    let said = text(&tell(OPERATOR, &["hold", "t1", "--reason", "audit"]).await);
    assert!(said.starts_with("t1 is held until it is released: audit\n  there is no such thread"), "{said}");
    assert_eq!(text(&tell(OPERATOR, &["release", "t1"]).await), "t1 is released\n");
    let said = text(&tell(OPERATOR, &["pause", "--reason", "because"]).await);
    assert_eq!(said, "removal is paused on all replicas; `volume-reaper resume` resumes it\n");
    assert_eq!(world.json(&["status", "--json"]).await["pause"]["paused_by"], "otto over HTTP");
    assert!(text(&tell(OPERATOR, &["resume"]).await).starts_with("removal resumed; it was paused since"));
    refused(OPERATOR, &["release", "t1"], "t1 is not held").await;
    refused(VIEWER, &["pause", "--reason", "because"], "this takes the role operator").await;
    refused("nonsense", &["status"], "this token is not in VOLUME_REAPER_HTTP_TOKENS_FILE").await;
    refused(OPERATOR, &["sweep"], "no service does this").await;
    for body in [&br#"{"thread_id": "late"}"#[..], b"no event"] {
        world.publish(body).await;
    }
    serving.until_metric("volume_reaper_settlements_total{settlement=\"dead_letter\"}", 2).await;
    world.closed_with_volume("late").await;
    let said = text(&tell(OPERATOR, &["dead-letters", "replay"]).await);
    assert!(said.starts_with("2 messages are parked, 2 of them are selected\n"), "{said}");
    assert!(said.contains("\nreplayed 1 messages\nleft 1 that are no event"), "{said}");
    world.until_marked("late").await;
    refused(OPERATOR, &["dead-letters", "purge"], "say --yes, or run it on a terminal").await;
    refused(OPERATOR, &["dead-letters", "purge", "--yes"], "this takes the role admin").await;
    let purged = text(&tell(ADMIN, &["dead-letters", "purge", "--yes", "--json"]).await);
    let purged: Value = serde_json::from_str(&purged).expect("JSON");
    assert_eq!((&purged["purged"], &purged["by_reason"]["undecodable"]), (&1.into(), &1.into()), "{purged}");
    assert_eq!(serving.stop().await, Some(0));
    let output = world.command(&["--server", "http://127.0.0.1:1/", "status"]).output().await.expect("it runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("the service at http://127.0.0.1:1/: Connection refused"), "{error}");
}

/// Where the service is behind a proxy, as others publish it.
const PREFIX: &str = "/tools/reaper";

/// A proxy that speaks TLS, and passes on what is below the prefix, without it. Returns its port.
async fn tls_proxy(service: String, authority: &Authority) -> u16 {
    let server = authority.server();
    let certificates = vec![CertificateDer::from_pem_slice(server.certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).expect("PEM");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(certificates, key).expect("a certificate");
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await);
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, service) = (acceptor.clone(), service.clone());
            tokio::spawn(async move {
                // Who does not trust it ends the handshake.
                let Ok(mut client) = acceptor.accept(connection).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.expect("a request"));
                }
                let head = String::from_utf8(head).expect("text");
                let (method, rest) = head.split_once(' ').expect("a request line");
                let Some(rest) = rest.strip_prefix(PREFIX) else {
                    let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\nconnection: close\r\n\r\nnot here\n";
                    client.write_all(answer.as_bytes()).await.expect("answered");
                    return client.shutdown().await.expect("ended");
                };
                let mut server = TcpStream::connect(service).await.expect("the service");
                server.write_all(format!("{method} {rest}").as_bytes()).await.expect("written");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_service_is_asked_through_tls_and_below_a_prefix_and_no_error_has_the_token() {
    let mut world = world(On::Sqlite).await;
    let serving = with_tokens(&mut world).await;
    let authority = Authority::new("the proxy's authority");
    let port = tls_proxy(serving.http.clone(), &authority).await;
    let trusted = write(world.dir.path(), "trusted.pem", &authority.pem);
    let untrusted = write(world.dir.path(), "untrusted.pem", &Authority::new("another authority").pem);
    let ask = async |authorities: &str, url: &str, arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("DATABASE_URL", "postgres://127.0.0.1:1/nowhere").env("SSL_CERT_FILE", authorities);
        command.env("VOLUME_REAPER_SERVER", url).env("VOLUME_REAPER_SERVER_TOKEN", OPERATOR);
        command.output().await.expect("it runs")
    };
    let https = format!("https://localhost:{port}{PREFIX}");
    for url in [https.clone(), format!("{https}/")] {
        assert!(text(&ask(&trusted, &url, &["status"]).await).contains("backlog"), "{url}");
        let held = text(&ask(&trusted, &url, &["hold", "t1", "--reason", "audit"]).await);
        assert!(held.starts_with("t1 is held"), "{held}");
        assert_eq!(text(&ask(&trusted, &url, &["release", "t1"]).await), "t1 is released\n");
    }
    assert!(text(&ask(&trusted, &https, &["receipts", "--limit", "1"]).await).contains("thread"));
    // In a file too, as each setting.
    let file = format!("server = \"{https}\"\nserver_token = \"{OPERATOR}\"\n");
    let file = write(world.dir.path(), "client.toml", &file);
    let mut command = world.command(&["status", "--config", &file]);
    let of_file = command.env("SSL_CERT_FILE", &trusted).output().await.expect("it runs");
    assert!(text(&of_file).contains("backlog"));
    let warned = String::from_utf8_lossy(&of_file.stderr);
    assert!(warned.contains("everybody on this machine can read it") && !warned.contains(OPERATOR), "{warned}");

    for (authorities, url, why) in [
        (&untrusted, https.clone(), "invalid peer certificate: UnknownIssuer"),
        (&trusted, https.replace("localhost", "127.0.0.1"), "certificate"),
        (&trusted, format!("https://localhost:{port}/elsewhere"), "404 Not Found: not here"),
        (&trusted, format!("http://localhost:{port}{PREFIX}"), "http://localhost"),
        (&trusted, format!("https://{}{PREFIX}", serving.http), "https://127.0.0.1"),
    ] {
        let output = ask(authorities, &url, &["status"]).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{url}: {error}");
        assert!(error.lines().count() == 1 && error.contains(why) && !error.contains(OPERATOR), "{url}: {error}");
    }
    assert_eq!(serving.stop().await, Some(0));
}
