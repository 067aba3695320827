//! Every answer of the API against its description, to requests that Schemathesis makes out of it, the absurd ones
//! included.

use std::process::Stdio;

use tokio::process::Command;

use crate::{
    api::{ADMIN, with_tokens},
    deploy::{deploy, run},
    world::{On, world},
};

/// What of each answer is looked at. Some of what it tries is refused for what no schema can say.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,negative_data_rejection";

#[tokio::test]
async fn every_answer_is_as_the_description_says() {
    let tools = run(deploy("local/tools/install"), &[]).await;
    assert!(tools.status.success(), "{tools:?}");
    let schemathesis = format!("{}/st", String::from_utf8(tools.stdout).expect("a path").trim());
    let mut world = world(On::Sqlite).await;
    world.set("VOLUME_REAPER_RECONCILE_INTERVAL", "1h");
    let serving = with_tokens(&mut world).await;
    world.closed_with_volume("gone").await;
    world.publish_closed("gone").await;
    world.until_marked("gone").await;
    let description = format!("http://{}/api/v1/openapi.json", serving.http);
    let mut command = Command::new(schemathesis);
    command
        .args(["run", &description, "--header", &format!("Authorization: Bearer {ADMIN}"), "--checks", CHECKS])
        .args(["--phases", "coverage,fuzzing", "--max-examples", "8", "--seed", "1", "--no-color"])
        .args(["--request-timeout", "60", "--generation-database", "none", "--suppress-health-check", "all"])
        .current_dir(world.dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("Tested: "), "{said}{output:?}");
}
