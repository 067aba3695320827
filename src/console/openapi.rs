//! The description of the API, made from the code that answers.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, ContentBuilder, Ref, RefOr, Required, ResponseBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

use super::{done, problem::Problem, reading, told};

/// The API.
#[derive(OpenApi)]
#[openapi(
    info(title = "Volume Reaper", description = "How things stand, and what to do about it."),
    paths(
        reading::status,
        reading::threads,
        reading::thread,
        reading::removals,
        reading::dead_letters,
        reading::hosts,
        reading::orphans,
        reading::holds,
        reading::doctor,
        done::sweeps,
        done::actions,
        done::stats,
        told::sweep,
        told::pause,
        told::resume,
        told::hold,
        told::release,
        told::clean,
        told::replay,
        told::purge,
        told::remove_orphans,
        told::stop_sweep,
        told::stop,
    ),
    components(schemas(Problem)),
    modifiers(&Common)
)]
struct Api;

/// What is told to do something without a body too.
const BODY_IS_OPTIONAL: [&str; 3] = ["/api/v1/sweep", "/api/v1/resume", "/api/v1/dead-letters/replay"];

/// What all of them have: who may, and how errors look.
struct Common;

impl Modify for Common {
    fn modify(&self, api: &mut openapi::OpenApi) {
        if let Some(components) = &mut api.components {
            for (name, scheme) in [("bearer", HttpAuthScheme::Bearer), ("basic", HttpAuthScheme::Basic)] {
                let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(scheme).build());
                components.add_security_scheme(name, scheme);
            }
        }
        let requirement = |name: &str| SecurityRequirement::new(name, [""; 0]);
        api.security = Some(vec![requirement("bearer"), requirement("basic")]);
        for (path, item) in &mut api.paths.paths {
            for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
                let content = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build();
                let problem = ResponseBuilder::new()
                    .description("Why it was not done")
                    .content("application/problem+json", content)
                    .build();
                if BODY_IS_OPTIONAL.contains(&path.as_str())
                    && let Some(RefOr::T(body)) = &mut operation.request_body
                {
                    body.required = Some(Required::False);
                }
                operation.responses.responses.insert("default".to_owned(), problem.into());
            }
        }
    }
}

/// The document that `/api/v1/openapi.json` serves.
#[must_use]
pub fn document() -> openapi::OpenApi {
    Api::openapi()
}
