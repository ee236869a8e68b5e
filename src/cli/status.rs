//! `assent status`

use std::time::SystemTime;

use assent_proto::v1::{
    GetServerStatusRequest, GetServerStatusResponse, ListParticipantsRequest, Participant,
};
use clap::Args;

use super::client::Client;
use super::output::{Colour, Format, Output};
use super::table::{Cell, Table};
use super::time::{brief, since, system_time};
use super::{Exit, Failure, json};

#[derive(Debug, Args)]
pub struct Status {}

impl Status {
    pub async fn run(&self, client: &Client, output: &mut Output) -> Result<Exit, Failure> {
        let mut admin = client.admin();
        let server = client.call(admin.get_server_status(GetServerStatusRequest {})).await?;
        let participants =
            client.call(admin.list_participants(ListParticipantsRequest {})).await?.participants;
        match output.format {
            Format::Json => output.json(&json::status(&server, &participants))?,
            Format::Table => {
                output.table(&server_table(&server, SystemTime::now()))?;
                if !participants.is_empty() {
                    output.line("")?;
                    output.table(&participant_table(&participants))?;
                }
            }
        }
        Ok(Exit::Ok)
    }
}

fn server_table(server: &GetServerStatusResponse, now: SystemTime) -> Table {
    let mut table = Table::of_facts();
    let colour = if server.ready { Colour::Green } else { Colour::Yellow };
    table.fact("phase", Cell::from(&server.phase).coloured(Some(colour)));
    table.fact("version", &server.version);
    table.fact(
        "up for",
        system_time(server.start_time.as_ref()).map_or(String::new(), |at| brief(since(now, at))),
    );
    table.fact("cluster", &server.cluster_id);
    table.fact("epoch", server.epoch.to_string());
    table.fact("data", &server.data_dir);
    table.fact("active", server.active_transactions.to_string());
    table.fact("retained", server.retained_transactions.to_string());
    table.fact("forced writes", format!("{} in {} syncs", server.forced_writes, server.log_syncs));
    table
}

fn participant_table(participants: &[Participant]) -> Table {
    let mut table = Table::new(["PARTICIPANT", "REACHED BY", "IN FLIGHT", "QUEUED", "NOTE"]);
    for participant in participants {
        let reached_by = match (participant.sessions.len(), participant.endpoint.as_str()) {
            (0, "") => Cell::from("nothing").coloured(Some(Colour::Red)),
            (0, endpoint) => endpoint.into(),
            (1, _) => "1 session".into(),
            (sessions, _) => format!("{sessions} sessions").into(),
        };
        table.row([
            (&participant.name).into(),
            reached_by,
            participant.in_flight.to_string().into(),
            participant.queued.to_string().into(),
            if participant.paused { "paused" } else { "" }.into(),
        ]);
    }
    table
}
