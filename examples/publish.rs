//! Publishes thread-closed events as a platform does; see docs/publish.md.

use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let connection = Connection::connect(&std::env::var("AMQP_URL")?, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for thread_id in std::env::args().skip(1) {
        let body = serde_json::json!({ "thread_id": thread_id, "closed_at": chrono::Utc::now() }).to_string();
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(uuid::Uuid::new_v4().to_string().into());
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let publish =
            channel.basic_publish("threads".into(), "thread.closed".into(), mandatory, body.as_bytes(), properties);
        let confirmation = publish.await?.await?;
        if !matches!(confirmation, Confirmation::Ack(None)) {
            return Err(format!("{thread_id}: the broker did not take it: {confirmation:?}").into());
        }
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}
