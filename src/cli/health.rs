//! `assent health`

use clap::Args;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::client::Client;
use super::output::{Format, Output};
use super::{Exit, Failure};

/// The health service's name for readiness; its name for liveness is empty.
const READINESS: &str = "assent.v1.TransactionService";

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct Health {
    /// Ask whether it takes transactions (this is the default)
    #[arg(long)]
    ready: bool,
    /// Ask only whether it runs: also while it recovers or drains
    #[arg(long)]
    live: bool,
}

impl Health {
    pub async fn run(&self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let (check, service) = if self.live { ("live", "") } else { ("ready", READINESS) };
        let request = HealthCheckRequest { service: service.to_owned() };
        let mut health = client.health();
        let answer = client.call(async {
            match health.check(request).await {
                // It listens and has not got as far as to know the service.
                Err(status) if status.code() == Code::NotFound => {
                    Ok(tonic::Response::new(tonic_health::pb::HealthCheckResponse {
                        status: ServingStatus::NotServing.into(),
                    }))
                }
                answer => answer,
            }
        });
        let serving = answer.await?.status() == ServingStatus::Serving;
        match output.format {
            Format::Table if serving => output.line(check)?,
            Format::Table => output.line(&format!("not {check}"))?,
            Format::Json => output.json(&json!({ "check": check, "serving": serving }))?,
        }
        Ok(if serving { Exit::Ok } else { Exit::NotReady })
    }
}
