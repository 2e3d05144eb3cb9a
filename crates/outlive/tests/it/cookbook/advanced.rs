//! `06_advanced_concepts`: what a workflow may be given, keep and give, workflows in workflows, and clients that come and
//! go. Left out are its programs that need a person; those that an agent leads are in
//! [`super::leading`].

use super::{Ask, Kitchen, PATIENCE, Ran, Recipe, function, map, mentions, walked};
use futures::{SinkExt, StreamExt};
use outlive::core::{Definition, Media};
use outlive::prelude::*;
use outlive::{Server, WorkflowBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "file_propagation/file_generation_workflow",
        build: |kitchen| {
            let report = function("Generate Report", |_| {
                let file = Media {
                    content: Some("bm9ydGgsNDI=".into()),
                    mime_type: Some("text/csv".into()),
                    filename: Some("sales.csv".into()),
                    ..Media::default()
                };
                StepOutput::new("sales.csv is written").files([file])
            });
            let count = function("Count Files", |input| format!("{} file", input.files.iter().flatten().count()));
            Workflow::builder("Sales Report").step(report).step(kitchen.says("Analyze", "analysed")).step(count)
        },
        asks: &[Ask {
            run: |workflow| workflow.run("The north"),
            told: "Generate Report Analyze:agent Count Files",
            check: |ran| {
                assert_eq!((ran.said("Analyze").as_str(), ran.run.text().as_str()), ("analysed", "1 file"));
                let asked = ran.asked[0].to_string();
                assert!(asked.contains("bm9ydGgsNDI=") && asked.contains("sales.csv"), "it read the file: {asked}");
                assert_eq!(ran.run.files.as_ref().map(Vec::len), Some(1));
            },
        }],
    },
    Recipe {
        name: "early_stopping/early_stop_basic, a deployment",
        build: |kitchen| secured(kitchen, "SECURE"),
        asks: &[Ask {
            run: |workflow| workflow.run("def hello(): return 'Hello'"),
            told: "Security Scan:agent Security Gate Deploy Code:agent Setup Monitoring:agent",
            check: |ran| assert_eq!(ran.run.text(), "watched"),
        }],
    },
    Recipe {
        name: "early_stopping/early_stop_basic, none",
        build: |kitchen| secured(kitchen, "VULNERABLE"),
        asks: &[Ask {
            run: |workflow| workflow.run("exec(input())"),
            told: "Security Scan:agent Security Gate!",
            check: |ran| {
                assert_eq!(ran.run.text(), "Not deployed: it is vulnerable");
                assert_eq!(ran.asked.len(), 1);
            },
        }],
    },
    Recipe {
        name: "early_stopping/early_stop_basic, in Steps",
        build: |kitchen| {
            let gate = function("quality_gate", |input| match input.text().len() {
                0..10 => StepOutput::stop("Too short"),
                _ => StepOutput::from("Good"),
            });
            let pipeline = Steps::new("content_pipeline")
                .step(kitchen.says("create_content", "short"))
                .step(gate)
                .step(kitchen.says("fact_check", "checked"));
            Workflow::builder("Content with a Gate").step(pipeline).step(kitchen.says("final_review", "reviewed"))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("A note"),
            told: "content_pipeline(create_content:agent quality_gate!)",
            check: |ran| {
                assert_eq!(ran.run.text(), "Too short");
                assert!(ran.step("content_pipeline").stop);
            },
        }],
    },
    Recipe {
        name: "early_stopping/early_stop_basic, agents and functions as they are",
        build: |kitchen| {
            let gate = function("early_exit_validator", |input| match mentions(&input.text(), &["invalid"]) {
                true => StepOutput::stop("Not processed"),
                false => StepOutput::from("Go on"),
            });
            Workflow::builder("Data Processing")
                .step(kitchen.agent("Data Validator", "REPLY=INVALID"))
                .step(gate)
                .step(kitchen.agent("Data Processor", "Process it."))
        },
        asks: &[Ask {
            run: |workflow| workflow.run(json!({ "user_count": -50 })),
            told: "Data Validator:agent early_exit_validator!",
            check: |ran| assert_eq!(ran.run.text(), "Not processed"),
        }],
    },
    Recipe {
        name: "early_stopping/early_stop_condition",
        build: |kitchen| {
            let check = function("Compliance Check", |input| match mentions(&input.text(), &["violation"]) {
                true => StepOutput::stop("It violates a policy"),
                false => StepOutput::from("It is fine"),
            });
            let gate = Condition::new("Compliance and QA Gate")
                .when(|question| mentions(&question.input_text(), &["legal", "medical"]))
                .step(check)
                .step(function("Quality Assurance", |_| "It is good"));
            Workflow::builder("Conditional Compliance")
                .step(kitchen.says("Research Content", "violations"))
                .step(gate)
                .step(kitchen.says("Write Article", "article"))
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("Legal cases"),
                told: "Research Content:agent Compliance and QA Gate?if(Compliance Check!)",
                check: |ran| assert_eq!(ran.run.text(), "It violates a policy"),
            },
            Ask {
                run: |workflow| workflow.run("Roses"),
                told: "Research Content:agent Compliance and QA Gate?none Write Article:agent",
                check: |ran| assert_eq!(ran.run.text(), "article"),
            },
        ],
    },
    Recipe {
        name: "early_stopping/early_stop_loop",
        build: |kitchen| {
            let check = function("Safety Check", |input| match input.text().contains("AI") {
                true => StepOutput::stop("It needs a second look"),
                false => StepOutput::from("It is safe"),
            });
            let research = Loop::new("Research Loop with Safety")
                .step(kitchen.says("Research HackerNews", "AI"))
                .step(check)
                .step(kitchen.says("Research Web", "pages"))
                .max_iterations(3);
            let content = kitchen.agent("Content Agent", "Write it.");
            Workflow::builder("Research with a Safety Check").step(research).step(content)
        },
        asks: &[Ask {
            run: |workflow| workflow.run("What is new"),
            told: "Research Loop with Safety[Research HackerNews:agent Safety Check!]",
            check: |ran| assert_eq!(ran.run.text(), "It needs a second look"),
        }],
    },
    Recipe {
        name: "early_stopping/early_stop_parallel",
        build: |kitchen| {
            let safety = function("Safety Check", |input| match mentions(&input.input_text(), &["dangerous"]) {
                true => StepOutput::stop("Stopped: it is dangerous"),
                false => StepOutput::from("It is safe"),
            });
            let phase = Parallel::new("Research and Validation")
                .step(kitchen.says("Research HackerNews", "stories"))
                .step(safety)
                .step(function("Quality Check", |_| "It is long enough"));
            Workflow::builder("Parallel Safety Checks").step(phase).step(kitchen.says("Write Article", "article"))
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("Something dangerous"),
                told: "Research and Validation{Research HackerNews:agent Safety Check! Quality Check}",
                // The other branches come to their end.
                check: |ran| {
                    assert_eq!(ran.said("Research HackerNews"), "stories");
                    assert!(ran.step("Research and Validation").stop);
                },
            },
            Ask {
                run: |workflow| workflow.run("Roses"),
                told: "Research and Validation{Research HackerNews:agent Safety Check Quality Check} \
                       Write Article:agent",
                check: |ran| assert_eq!(ran.run.text(), "article"),
            },
        ],
    },
    Recipe {
        name: "previous_step_outputs/access_previous_outputs",
        build: |kitchen| {
            let report = function("comprehensive_report", |input| {
                let said = |name| input.output(name).map(StepOutput::text).unwrap_or_default();
                let all: Vec<_> = input.previous_step_outputs.keys().map(|name| name.to_string()).collect();
                let topic = input.input_text();
                format!("{topic}: {} and {} of {all:?}", said("research_hackernews"), said("research_web"))
            });
            Workflow::builder("Enhanced Research")
                .step(kitchen.says("research_hackernews", "stories"))
                .step(kitchen.says("research_web", "pages"))
                .step(report)
                .step(kitchen.says("final_reasoning", "so"))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("AI"),
            told: "research_hackernews:agent research_web:agent comprehensive_report final_reasoning:agent",
            check: |ran| {
                let report = r#"AI: stories and pages of ["research_hackernews", "research_web"]"#;
                assert_eq!(ran.said("comprehensive_report"), report);
            },
        }],
    },
    // Steps without names of their own are called after what runs in them: there is no `step_1`.
    Recipe {
        name: "previous_step_outputs/access_previous_outputs, agents as they are",
        build: |kitchen| {
            let report = function("create_report", |input| {
                let said = |name| input.output(name).map(StepOutput::text).unwrap_or_default();
                format!("{} and {}", said("Hacker News Researcher"), said("Web Researcher"))
            });
            let print = function("print_final_report", |input| {
                let report = input.output("create_report").map(StepOutput::text).unwrap_or_default();
                format!("Printed {} letters", report.len())
            });
            Workflow::builder("Direct Steps")
                .step(kitchen.agent("Hacker News Researcher", "REPLY=stories"))
                .step(kitchen.agent("Web Researcher", "REPLY=pages"))
                .steps([report, print])
        },
        asks: &[Ask {
            run: |workflow| workflow.run("AI"),
            told: "Hacker News Researcher:agent Web Researcher:agent create_report print_final_report",
            check: |ran| assert_eq!(ran.run.text(), "Printed 17 letters"),
        }],
    },
    // In Agno the workflow has dependencies of its own, and its agents are shown all of them. Here the run has them, and
    // a function writes down what the agent should know.
    Recipe {
        name: "run_params/workflow_dependencies",
        build: |kitchen| {
            let configure = function("Configure", |input| {
                let config = input.dependencies.as_deref().cloned().unwrap_or_default();
                format!("{}\nConfiguration: {}", input.input_text(), Value::Object(config))
            });
            let agent = kitchen.agent("Config-Aware Agent", "Act by the configuration. REPLY=configured");
            Workflow::builder("Dependencies").step(configure).step(Step::new("Process with Config").agent(agent))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("Which version?").dependencies(map([("api_version", json!("v2"))])),
            told: "Configure Process with Config:agent",
            check: |ran| {
                let asked = ran.asked[0]["input"][1]["content"].as_str().unwrap();
                assert_eq!(asked, "Which version?\nConfiguration: {\"api_version\":\"v2\"}");
            },
        }],
    },
    Recipe {
        name: "run_params/workflow_all_params",
        build: |kitchen| {
            let brief = Step::function("Brief", async |context: StepContext, input| {
                let input: Arc<StepInput> = input;
                let tone = input.dependencies.as_ref().and_then(|config| config["tone"].as_str()).unwrap_or("plain");
                let written = context.state.get("articles_written").and_then(|count| count.as_i64()).unwrap_or(0);
                context.state.set("articles_written", written + 1);
                Ok::<_, Failure>(format!("{} in a {tone} tone, number {}", input.input_text(), written + 1))
            });
            Workflow::builder("Content Pipeline")
                .session_state(map([("articles_written", json!(0))]))
                .step(brief)
                .step(kitchen.says("Research", "facts"))
                .step(kitchen.says("Write", "article"))
        },
        asks: &[
            Ask {
                run: |workflow| {
                    let run = workflow.run("Type hints").metadata(map([("project", json!("blog"))]));
                    run.dependencies(map([("tone", json!("professional"))]))
                },
                told: "Brief Research:agent Write:agent",
                check: |ran| {
                    assert_eq!(ran.said("Brief"), "Type hints in a professional tone, number 1");
                    assert_eq!(ran.run.metadata, Some(json!({ "project": "blog" })));
                    assert_eq!(
                        serde_json::to_value(ran.events.last()).unwrap()["metadata"],
                        json!({ "project": "blog" })
                    );
                },
            },
            Ask {
                run: |workflow| workflow.run("Async programming"),
                told: "Brief Research:agent Write:agent",
                check: |ran| assert_eq!(ran.said("Brief"), "Async programming in a plain tone, number 2"),
            },
        ],
    },
    Recipe {
        name: "session_state/job_application_tracker",
        build: |kitchen| {
            let extractor = kitchen.agent("Application Extractor", "Find the application.");
            let tracker = kitchen.agent("Application Tracker", "Save it.").tools([save_application(kitchen)]);
            Workflow::builder("Job Application Tracker")
                .session_state(map([("applications", json!([]))]))
                .step(Step::new("extract_application").agent(extractor.output_schema::<Application>()))
                .step(Step::new("save_application").agent(tracker))
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run(r#"JSON={"company":"Acme","role":"Engineer","status":"Applied"}"#),
                told: "extract_application:agent save_application:agent",
                check: |ran| {
                    let company: Application = serde_json::from_value(ran.content("extract_application")).unwrap();
                    assert_eq!((&*company.company, &*company.role), ("Acme", "Engineer"));
                    assert_eq!(ran.state["applications"].as_array().unwrap().len(), 1);
                },
            },
            Ask {
                run: |workflow| workflow.run(r#"JSON={"company":"Globex","role":"Analyst","status":"Offer"}"#),
                told: "extract_application:agent save_application:agent",
                check: |ran| assert_eq!(ran.state["applications"].as_array().unwrap().len(), 2),
            },
        ],
    },
    Recipe {
        name: "session_state/state_in_condition",
        build: greeting,
        asks: &[
            Ask {
                run: |workflow| workflow.run("Can you help me?").user_id("ada"),
                told: "Check If New User?if(Greet User:agent Mark as Greeted) Handle Query:agent",
                check: |ran| {
                    assert_eq!(ran.said("Mark as Greeted"), "Greeted 1 times");
                    assert_eq!(ran.state["has_been_greeted"], true);
                },
            },
            Ask {
                run: |workflow| workflow.run("Tell me a joke").user_id("ada"),
                told: "Check If New User?none Handle Query:agent",
                check: |ran| assert_eq!(ran.state["greeting_count"], 1),
            },
        ],
    },
    Recipe {
        name: "session_state/state_in_function",
        build: |kitchen| {
            let plan = Step::function("Content Planning Step", async |context: StepContext, input| {
                let input: Arc<StepInput> = input;
                let mut plans = context.state.get("content_plans").unwrap_or_else(|| json!([]));
                let id = plans.as_array().map_or(0, Vec::len) + 1;
                let plan = json!({ "id": id, "topic": input.input_text(), "has_research": !input.text().is_empty() });
                plans.as_array_mut().ok_or(Failure::fatal("the plans are a list"))?.push(plan);
                context.state.set("content_plans", plans);
                Ok::<_, Failure>(format!("Plan {id}"))
            });
            let summary = Step::function("Content Summary Step", async |context: StepContext, _| {
                let plans = context.state.get("content_plans").unwrap_or_default();
                let count = plans.as_array().map_or(0, Vec::len);
                context.state.set("total_plans_summarized", count);
                Ok::<_, Failure>(format!("{count} plans"))
            });
            Workflow::builder("Content Creation Workflow")
                .session_state(map([("content_plans", json!([]))]))
                .step(kitchen.says("Research Step", "findings"))
                .steps([plan, summary])
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("AI trends"),
                told: "Research Step:agent Content Planning Step Content Summary Step",
                check: |ran| assert_eq!(ran.run.text(), "1 plans"),
            },
            Ask {
                run: |workflow| workflow.run("Automation"),
                told: "Research Step:agent Content Planning Step Content Summary Step",
                check: |ran| {
                    assert_eq!(ran.run.text(), "2 plans");
                    assert_eq!(ran.state["content_plans"][1]["topic"], "Automation");
                },
            },
        ],
    },
    // In Agno the selector itself counts. Here what decides changes nothing: a function before it counts.
    Recipe {
        name: "session_state/state_in_router, by preference",
        build: |kitchen| {
            let count = Step::function("Count", async |context: StepContext, input| {
                let count = context.state.get("interaction_count").and_then(|count| count.as_i64()).unwrap_or(0);
                context.state.set("interaction_count", count + 1);
                let input: Arc<StepInput> = input;
                Ok::<_, Failure>(input.text())
            });
            let router = Router::new("Route to Appropriate Agent")
                .select(|question| {
                    match (question.state.get("agent_preference"), question.state.get("interaction_count")) {
                        (Some(Value::String(preference)), _) if preference == "technical" => "Technical Response",
                        (_, Some(count)) if count == 1 => "Onboard User",
                        _ => "General Response",
                    }
                })
                .choice(kitchen.says("Onboard User", "welcome"))
                .choice(kitchen.says("Technical Response", "bits"))
                .choice(kitchen.says("General Response", "well"));
            let prefer = Step::function("Update Preferences", async |context: StepContext, _| {
                let count = context.state.get("interaction_count").and_then(|count| count.as_i64()).unwrap_or(0);
                let preference = if count == 2 { "technical" } else { "general" };
                context.state.set("agent_preference", preference);
                Ok::<_, Failure>(preference)
            });
            Workflow::builder("Adaptive Assistant").step(count).step(router).step(prefer)
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("Hello"),
                told: "Count Route to Appropriate Agent>(Onboard User:agent) Update Preferences",
                check: |ran| assert_eq!(ran.state["interaction_count"], 1),
            },
            Ask {
                run: |workflow| workflow.run("What is a tree?"),
                told: "Count Route to Appropriate Agent>(General Response:agent) Update Preferences",
                check: |ran| assert_eq!(ran.state["agent_preference"], "technical"),
            },
            Ask {
                run: |workflow| workflow.run("And a heap?"),
                told: "Count Route to Appropriate Agent>(Technical Response:agent) Update Preferences",
                check: |ran| assert_eq!(ran.state["interaction_count"], 3),
            },
        ],
    },
    Recipe {
        name: "session_state/state_in_router, tasks",
        build: |kitchen| {
            let agent = |name| kitchen.agent(name, "Use your tools.");
            let manager = agent("Task Manager").tools([add_items(kitchen, "tasks")]);
            let viewer = agent("Task Viewer").tools([list_items(kitchen, "tasks")]);
            let router = Router::new("task_management_router")
                .select(|question| match mentions(&question.input_text(), &["show", "list"]) {
                    true => "view_tasks",
                    false => "manage_tasks",
                })
                .choice(Step::new("manage_tasks").agent(manager))
                .choice(Step::new("view_tasks").agent(viewer));
            Workflow::builder("Smart Task Management").session_state(map([("tasks", json!([]))])).step(router)
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run(r#"TOOL=add_items:{"items":["review","shop"]}"#),
                told: "task_management_router>(manage_tasks:agent)",
                check: |ran| assert_eq!(ran.state["tasks"], json!(["review", "shop"])),
            },
            Ask {
                run: |workflow| workflow.run("Show me my tasks"),
                told: "task_management_router>(view_tasks:agent)",
                check: |ran| assert!(ran.asked[1].to_string().contains("review, shop")),
            },
        ],
    },
    Recipe {
        name: "session_state/state_with_agent",
        build: |kitchen| {
            let tools = [add_items(kitchen, "shopping_list"), clear_items(kitchen, "shopping_list")];
            let assistant = kitchen.agent("Shopping Assistant", "Keep the list.").tools(tools);
            let manager = kitchen.agent("List Manager", "Show the list.").tool(list_items(kitchen, "shopping_list"));
            Workflow::builder("Shopping List Workflow")
                .session_state(map([("shopping_list", json!([]))]))
                .step(Step::new("manage_items").agent(assistant))
                .step(Step::new("view_list").agent(manager))
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run(r#"TOOL=add_items:{"items":["milk","bread"]}"#),
                told: "manage_items:agent view_list:agent",
                check: |ran| {
                    // The second agent's tool sees what the first one's changed.
                    assert!(ran.asked[3].to_string().contains("milk, bread"));
                    assert_eq!(ran.state["shopping_list"], json!(["milk", "bread"]));
                },
            },
            Ask {
                run: |workflow| workflow.run(r#"TOOL=add_items:{"items":["eggs","milk"]}"#),
                told: "manage_items:agent view_list:agent",
                check: |ran| assert_eq!(ran.state["shopping_list"], json!(["milk", "bread", "eggs"])),
            },
            Ask {
                run: |workflow| workflow.run("TOOL=clear_items:{}"),
                told: "manage_items:agent view_list:agent",
                check: |ran| assert_eq!(ran.state["shopping_list"], json!([])),
            },
        ],
    },
    Recipe {
        name: "session_state/state_with_team",
        build: |kitchen| {
            let members = ["StepManager", "StepCoordinator"].map(|name| kitchen.agent(name, "Confirm it. REPLY=fine"));
            let team = kitchen.team("ManagementTeam", members, "Use your tools.").tool(add_items(kitchen, "steps"));
            let status = kitchen.agent("StatusManager", "Keep the states.").tool(list_items(kitchen, "steps"));
            Workflow::builder("Project Management")
                .session_state(map([("steps", json!([]))]))
                .step(Step::new("manage_steps").team(team))
                .step(Step::new("update_status").agent(status))
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run(r#"TOOL=add_items:{"items":["Setup Database"]}"#),
                told: "manage_steps:team update_status:agent",
                check: |ran| {
                    assert_eq!(ran.state["steps"], json!(["Setup Database"]));
                    assert!(ran.asked.last().unwrap().to_string().contains("Setup Database"));
                },
            },
            Ask {
                run: |workflow| workflow.run(r#"TOOL=add_items:{"items":["Create API"]}"#),
                told: "manage_steps:team update_status:agent",
                check: |ran| assert_eq!(ran.state["steps"], json!(["Setup Database", "Create API"])),
            },
        ],
    },
    Recipe {
        name: "session_state/rename_session",
        build: |kitchen| {
            let article = Steps::new("article_creation")
                .step(kitchen.says("research", "facts"))
                .step(kitchen.says("writing", "article"));
            Workflow::builder("Article Creation").step(article)
        },
        asks: &[Ask {
            run: |workflow| workflow.run("Wind power"),
            told: "article_creation(research:agent writing:agent)",
            check: |ran| assert_eq!(ran.run.text(), "article"),
        }],
    },
    Recipe {
        name: "structured_io/image_input",
        build: |kitchen| {
            let researcher = kitchen.agent("News Researcher", "Find the news about it.").tool(kitchen.search("web"));
            Workflow::builder("Image Analysis and Research")
                .step(kitchen.says("Image Analysis Step", "bridge"))
                .step(Step::new("News Research Step").agent(researcher))
        },
        asks: &[Ask {
            run: |workflow| {
                let image = Media { url: Some("https://example.com/bridge.jpg".into()), ..Media::default() };
                workflow.run("What is it, and what is new about it?").images([image])
            },
            told: "Image Analysis Step:agent News Research Step:agent",
            check: |ran| {
                assert!(ran.asked.iter().all(|asked| asked.to_string().contains("https://example.com/bridge.jpg")));
                assert!(ran.run.text().contains("from 1 tool results"));
            },
        }],
    },
    Recipe {
        name: "structured_io/input_schema",
        build: |kitchen| topical(kitchen).input_schema::<ResearchTopic>(),
        asks: &[
            Ask {
                run: |workflow| workflow.run(json!(topic())),
                told: "Research Step:agent Content Planning Step",
                check: |ran| assert_eq!(ran.run.text(), "AI for engineers: chips, ethics; 5 sources"),
            },
            // Text is read as JSON; what is left out is filled in.
            Ask {
                run: |workflow| workflow.run(r#"{"topic":"AI","focus_areas":["chips"],"target_audience":"all"}"#),
                told: "Research Step:agent Content Planning Step",
                check: |ran| assert_eq!(ran.run.text(), "AI for all: chips; 5 sources"),
            },
        ],
    },
    Recipe {
        name: "structured_io/pydantic_input",
        build: topical,
        asks: &[Ask {
            run: |workflow| workflow.run(json!(ResearchTopic { sources_required: 8, ..topic() })),
            told: "Research Step:agent Content Planning Step",
            check: |ran| {
                assert_eq!(ran.run.text(), "AI for engineers: chips, ethics; 8 sources");
                // An agent is shown the object as JSON.
                let shown = ran.asked[0]["input"][1]["content"].as_str().unwrap();
                let shown: ResearchTopic = serde_json::from_str(shown).unwrap();
                assert_eq!(shown.focus_areas, ["chips", "ethics"]);
            },
        }],
    },
    Recipe {
        name: "structured_io/structured_io_agent",
        build: |kitchen| {
            let researcher = kitchen.agent("AI Research Specialist", "Find what is new.").tool(kitchen.search("web"));
            Workflow::builder("Structured Pipeline")
                .step(Step::new("research_insights").agent(researcher.output_schema::<Findings>()))
                .step(Step::new("content_strategy").agent(strategist(kitchen)))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("What is new in AI"),
            told: "research_insights:agent content_strategy:agent",
            check: |ran| {
                let found: Findings = serde_json::from_value(ran.content("research_insights")).unwrap();
                assert_eq!(found.topic, "AI");
                let asked = ran.asked.last().unwrap()["input"][1]["content"].as_str().unwrap();
                assert_eq!(serde_json::from_str::<Findings>(asked).unwrap(), found, "the next is given all of it");
                assert!(ran.run.content_as::<Strategy>().is_ok());
                assert_eq!(ran.run.step_executor_runs[1].content_type, "Strategy");
            },
        }],
    },
    Recipe {
        name: "structured_io/structured_io_function",
        build: |kitchen| {
            let researcher = kitchen.agent("AI Research Specialist", "Find what is new.").output_schema::<Findings>();
            let analysis = Step::function("enhanced_analysis", async |_, input| {
                let input: Arc<StepInput> = input;
                let found: Findings = serde_json::from_value(input.previous_step_content.clone().unwrap_or_default())?;
                let report = Report { insights: found.key_insights.len(), confidence: found.confidence_score };
                Ok::<_, Failure>(serde_json::to_value(report)?)
            });
            let processor = function("data_processor", |input| match &input.previous_step_content {
                Some(Value::Object(report)) => json!({ "quality": report["confidence"], "status": "processed" }),
                _ => json!("no report"),
            });
            Workflow::builder("Structured Pipeline with Analysis")
                .step(Step::new("research_insights").agent(researcher))
                .steps([analysis, processor])
                .step(Step::new("content_strategy").agent(strategist(kitchen)))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("What is new in AI"),
            told: "research_insights:agent enhanced_analysis data_processor content_strategy:agent",
            check: |ran| {
                assert_eq!(ran.content("data_processor"), json!({ "quality": 1.5, "status": "processed" }));
                assert!(ran.run.content_as::<Strategy>().is_ok());
            },
        }],
    },
    Recipe {
        name: "structured_io/structured_io_team",
        build: |kitchen| {
            let members = || ["Specialist", "Analyst"].map(|name| kitchen.agent(name, "Do your part. REPLY=part"));
            let research = kitchen.team("AI Research Team", members(), "Find it.").output_schema::<Findings>();
            let strategy = kitchen.team("Content Strategy Team", members(), "Plan it.").output_schema::<Strategy>();
            Workflow::builder("Teams with Structure")
                .step(Step::new("Research Insights").team(research))
                .step(Step::new("Content Strategy").team(strategy))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("What is new in AI"),
            told: "Research Insights:team Content Strategy:team",
            check: |ran| {
                assert!(serde_json::from_value::<Findings>(ran.content("Research Insights")).is_ok());
                assert!(ran.run.content_as::<Strategy>().is_ok());
            },
        }],
    },
    Recipe {
        name: "workflow_as_a_step/deeply_nested_workflow",
        build: |kitchen| {
            let data = Workflow::builder("Data Collection")
                .step(kitchen.says("gather", "data"))
                .step(kitchen.says("analyze", "trends"));
            let opinion = Workflow::builder("Expert Opinion").step(kitchen.says("opinion", "hope"));
            let both = Parallel::new("parallel_research")
                .step(Step::new("data_branch").workflow(data.definition().unwrap()))
                .step(Step::new("opinion_branch").workflow(opinion.definition().unwrap()));
            let merge = function("merge", |input| {
                let said = |name| input.output(name).map(StepOutput::text).unwrap_or_default();
                format!("Merged: {} and {}", said("data_branch"), said("opinion_branch"))
            });
            let research = Workflow::builder("Comprehensive Research").step(both).step(merge).definition().unwrap();
            Workflow::builder("Full Pipeline")
                .step(Step::new("research").workflow(research))
                .step(kitchen.says("write", "written"))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("Wind and sun"),
            told: "research:workflow(parallel_research{data_branch:workflow(gather:agent analyze:agent) \
                   opinion_branch:workflow(opinion:agent)} merge) write:agent",
            check: |ran| {
                assert_eq!(ran.said("research"), "Merged: trends and hope");
                assert_eq!(ran.run.text(), "written");
            },
        }],
    },
    Recipe {
        name: "workflow_as_a_step/nested_workflow, nested_workflow_events",
        build: |kitchen| {
            Workflow::builder("Research and Write")
                .step(Step::new("research_phase").workflow(researched(kitchen)))
                .step(kitchen.says("writing_phase", "written"))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("The history of AI"),
            told: "research_phase:workflow(research:agent summary) writing_phase:agent",
            check: |ran| {
                assert_eq!(ran.said("research_phase"), "Summary of facts");
                let depths: Vec<_> = ran.events.iter().map(|event| event.origin.nested_depth).collect();
                assert!(depths.contains(&1) && depths.first() == Some(&0) && depths.last() == Some(&0));
                let names: Vec<_> =
                    ran.events.iter().filter_map(|event| event.origin.workflow_name.as_deref()).collect();
                assert!(names.contains(&"Research Workflow") && names.contains(&"Research and Write"));
            },
        }],
    },
    Recipe {
        name: "workflow_as_a_step/nested_workflow_pass_direct_workflow",
        build: |kitchen| {
            Workflow::builder("Auto-Wrap").step(researched(kitchen)).step(kitchen.says("write", "written"))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("Open source"),
            told: "Research Workflow:workflow(research:agent summary) write:agent",
            check: |ran| assert!(ran.asked[1].to_string().contains("Summary of facts")),
        }],
    },
    Recipe {
        name: "workflow_as_a_step/nested_workflow_with_condition",
        build: |kitchen| {
            let gate = Condition::new("fact_check_gate")
                .when(|question| question.text().chars().any(|letter| letter.is_ascii_digit()))
                .step(kitchen.says("fact_check", "checked"))
                .otherwise(function("pass_through", StepInput::text));
            let inner = Workflow::builder("Research with Fact Check").step(kitchen.says("research", "1969")).step(gate);
            Workflow::builder("Research, Check and Write")
                .step(Step::new("research_phase").workflow(inner.definition().unwrap()))
                .step(kitchen.says("writing_phase", "written"))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("Space"),
            told: "research_phase:workflow(research:agent fact_check_gate?if(fact_check:agent)) writing_phase:agent",
            check: |ran| assert_eq!(ran.said("research_phase"), "checked"),
        }],
    },
    Recipe {
        name: "workflow_as_a_step/nested_workflow_with_loop",
        build: |kitchen| {
            let passes = Loop::new("research_loop")
                .step(kitchen.says("research_pass", "more"))
                .until(|question| question.last_text().len() > 200)
                .max_iterations(3);
            let inner = Workflow::builder("Iterative Research").step(passes).definition().unwrap();
            Workflow::builder("Iterative Research and Write")
                .step(Step::new("research_phase").workflow(inner))
                .step(kitchen.says("writing_phase", "written"))
        },
        asks: &[Ask {
            run: |workflow| workflow.run("How networks learn"),
            told: "research_phase:workflow(research_loop[research_pass:agent | research_pass:agent | \
                   research_pass:agent]) writing_phase:agent",
            check: |ran| assert_eq!(ran.said("research_phase"), "more"),
        }],
    },
    Recipe {
        name: "workflow_as_a_step/nested_workflow_with_router",
        build: |kitchen| {
            let router = Router::new("specialist_router")
                .select(|question| match question.input_text() {
                    text if mentions(&text, &["software", "api"]) => "tech_research",
                    text if mentions(&text, &["history", "ancient"]) => "history_research",
                    _ => "general_research",
                })
                .choice(kitchen.says("tech_research", "bits"))
                .choice(kitchen.says("history_research", "kings"))
                .choice(kitchen.says("general_research", "things"));
            let inner = Workflow::builder("Routed Research").step(router).definition().unwrap();
            Workflow::builder("Smart Research and Edit")
                .step(Step::new("research_phase").workflow(inner))
                .step(kitchen.says("editing_phase", "edited"))
        },
        asks: &[
            Ask {
                run: |workflow| workflow.run("How an API works"),
                told: "research_phase:workflow(specialist_router>(tech_research:agent)) editing_phase:agent",
                check: |ran| assert_eq!(ran.said("research_phase"), "bits"),
            },
            Ask {
                run: |workflow| workflow.run("Ancient Rome"),
                told: "research_phase:workflow(specialist_router>(history_research:agent)) editing_phase:agent",
                check: |ran| assert_eq!(ran.said("research_phase"), "kings"),
            },
        ],
    },
];

impl Ran {
    fn content(&self, name: &str) -> Value {
        self.step(name).content.clone().unwrap_or_default()
    }
}

fn secured(kitchen: &Kitchen, verdict: &str) -> WorkflowBuilder {
    let gate = function("Security Gate", |input| match mentions(&input.text(), &["vulnerable"]) {
        true => StepOutput::stop("Not deployed: it is vulnerable"),
        false => StepOutput::from("Deploying"),
    });
    Workflow::builder("Secure Deployment Pipeline")
        .step(kitchen.says("Security Scan", verdict))
        .step(gate)
        .step(kitchen.says("Deploy Code", "deployed"))
        .step(kitchen.says("Setup Monitoring", "watched"))
}

/// A workflow for other workflows. It needs no database of its own.
fn researched(kitchen: &Kitchen) -> Arc<Definition> {
    let summary = function("summary", |input| format!("Summary of {}", input.text()));
    let inner = Workflow::builder("Research Workflow").step(kitchen.says("research", "facts")).step(summary);
    inner.definition().unwrap()
}

fn greeting(kitchen: &Kitchen) -> WorkflowBuilder {
    let mark = Step::function("Mark as Greeted", async |context: StepContext, _| {
        let count = context.state.get("greeting_count").and_then(|count| count.as_i64()).unwrap_or(0) + 1;
        context.state.set("has_been_greeted", true);
        context.state.set("greeting_count", count);
        Ok::<_, Failure>(format!("Greeted {count} times"))
    });
    let is_new = Condition::new("Check If New User")
        .when(|question| question.state.get("has_been_greeted") != Some(json!(true)))
        .step(kitchen.says("Greet User", "hello"))
        .step(mark);
    Workflow::builder("Conditional Greeting")
        .session_state(map([("has_been_greeted", json!(false)), ("greeting_count", json!(0))]))
        .step(is_new)
        .step(kitchen.says("Handle Query", "well"))
}

#[derive(Deserialize, JsonSchema)]
struct Items {
    items: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

fn items(context: &ToolContext, key: &str) -> Vec<String> {
    context.session_state.get(key).and_then(|items| serde_json::from_value(items).ok()).unwrap_or_default()
}

/// Adds to a list in the session's state. Several at once: calls of one turn do not see what the others add.
fn add_items(kitchen: &Kitchen, key: &'static str) -> Tool {
    let calls = kitchen.tool_calls.clone();
    Tool::new("add_items", "Adds to the list what it lacks.", move |more: Items, context: ToolContext| {
        calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut items = items(&context, key);
        for item in more.items {
            if !items.contains(&item) {
                items.push(item);
            }
        }
        context.session_state.set(key, items.clone());
        async move { Ok::<_, Infallible>(format!("There are {} now", items.len())) }
    })
}

fn list_items(kitchen: &Kitchen, key: &'static str) -> Tool {
    let calls = kitchen.tool_calls.clone();
    Tool::new("list_items", "Shows the list.", move |_: Nothing, context: ToolContext| {
        calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let items = items(&context, key).join(", ");
        async move { Ok::<_, Infallible>(items) }
    })
}

fn clear_items(kitchen: &Kitchen, key: &'static str) -> Tool {
    let calls = kitchen.tool_calls.clone();
    Tool::new("clear_items", "Empties the list.", move |_: Nothing, context: ToolContext| {
        calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        context.session_state.set(key, json!([]));
        async { Ok::<_, Infallible>("It is empty") }
    })
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
struct Application {
    company: String,
    role: String,
    status: String,
    notes: Option<String>,
}

fn save_application(kitchen: &Kitchen) -> Tool {
    let calls = kitchen.tool_calls.clone();
    let save = move |application: Application, context: ToolContext| {
        calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut all = context.session_state.get("applications").unwrap_or_else(|| json!([]));
        if let Value::Array(all) = &mut all {
            all.push(json!(application));
        }
        context.session_state.set("applications", all);
        async move { Ok::<_, Infallible>(format!("Saved {} at {}", application.role, application.company)) }
    };
    Tool::new("save_application", "Saves an application.", save)
}

#[derive(Deserialize, Serialize, JsonSchema)]
struct ResearchTopic {
    topic: String,
    focus_areas: Vec<String>,
    target_audience: String,
    #[serde(default = "five")]
    sources_required: u32,
}

fn five() -> u32 {
    5
}

fn topic() -> ResearchTopic {
    ResearchTopic {
        topic: "AI".into(),
        focus_areas: vec!["chips".into(), "ethics".into()],
        target_audience: "engineers".into(),
        sources_required: five(),
    }
}

/// Research, then a function that reads the run's input as what it is.
fn topical(kitchen: &Kitchen) -> WorkflowBuilder {
    let plan = Step::function("Content Planning Step", async |_, input| {
        let input: Arc<StepInput> = input;
        let topic: ResearchTopic = serde_json::from_value(input.input.as_deref().cloned().unwrap_or_default())?;
        let (areas, sources) = (topic.focus_areas.join(", "), topic.sources_required);
        Ok::<_, Failure>(format!("{} for {}: {areas}; {sources} sources", topic.topic, topic.target_audience))
    });
    Workflow::builder("Topical Research").step(kitchen.says("Research Step", "findings")).step(plan)
}

#[derive(Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
struct Findings {
    /// What it is about.
    topic: String,
    #[schemars(length(min = 3))]
    key_insights: Vec<String>,
    confidence_score: f64,
}

#[derive(Debug, Deserialize, Serialize, JsonSchema)]
struct Strategy {
    target_audience: String,
    #[schemars(length(min = 3))]
    content_pillars: Vec<String>,
}

#[derive(Serialize)]
struct Report {
    insights: usize,
    confidence: f64,
}

fn strategist(kitchen: &Kitchen) -> Agent {
    kitchen.agent("Content Strategy Expert", "Make a strategy of it.").output_schema::<Strategy>()
}

walked!(RECIPES);

/// In Agno the evaluator of a Condition and the selector of a Router may change the state.
#[tokio::test]
async fn branching_code_sees_the_state_and_changes_nothing() {
    let count = |question: &VerdictInput| {
        let count = question.state.get("count").and_then(|count| count.as_i64()).unwrap_or_default();
        question.state.set("count", count + 1);
        count
    };
    let holds = Condition::new("holds").when(move |question| count(question) == 7).step(function("held", |_| "held"));
    let router = Router::new("router")
        .select(move |question| if count(question) == 7 { "seven" } else { "other" })
        .choice(function("seven", |_| "seven"))
        .choice(function("other", |_| "other"));
    let repeated = Loop::new("loop").step(function("again", |_| "again")).until(move |question| count(question) == 7);
    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("cookbook.db"));
    let workflow = Workflow::builder("Decided").db(db).session_state(map([("count", json!(7))]));
    let workflow = workflow.step(holds).step(router).step(repeated).build().unwrap();
    let run = workflow.run("hi").session_id("s").await.unwrap();
    let executed: Vec<_> = run.step_results.iter().flat_map(|step| &step.steps).map(|step| step.text()).collect();
    assert_eq!(executed, ["held", "seven", "again"]);
    assert_eq!(workflow.get_session_state("s").await.unwrap()["count"], 7);
    workflow.shutdown().await.unwrap();
}

/// `session_state/rename_session`, but for the name that a model makes up.
#[tokio::test]
async fn a_session_is_named_after_its_run() {
    let kitchen = Kitchen::new().await;
    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("cookbook.db"));
    let workflow = super::basic::content_creation(&kitchen).db(db).build().unwrap();
    assert!(!workflow.set_session_name("wind", "too early").await.unwrap());
    workflow.run("Wind power").session_id("wind").await.unwrap();
    assert_eq!(workflow.get_session_name("wind").await.unwrap(), None);
    assert!(workflow.set_session_name("wind", "All about wind").await.unwrap());
    assert_eq!(workflow.get_session_name("wind").await.unwrap().as_deref(), Some("All about wind"));
    workflow.shutdown().await.unwrap();
}

/// `background_execution/background_poll`. `websocket_server` and `websocket_client` are the example of the same name.
#[tokio::test]
async fn a_run_in_the_background_is_polled_until_it_has_completed() {
    let kitchen = Kitchen::new().await;
    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("cookbook.db"));
    let workflow = super::basic::content_creation(&kitchen).db(db).build().unwrap();
    let run = workflow.run("AI trends in 2024").background().await.unwrap();
    let run_id = run.run_id().to_string();
    let mut events = run.events(None);
    let mut seen = Vec::new();
    // Polled whenever there is news, instead of every few seconds.
    loop {
        let polled = workflow.get_run(&run_id).await.unwrap().expect("it is known at once");
        seen.push(polled.status);
        if polled.has_completed() {
            break;
        }
        timeout(PATIENCE, events.next()).await.expect("it goes on").unwrap();
    }
    seen.dedup();
    assert_eq!(seen.last(), Some(&RunStatus::Completed));
    assert!(seen.contains(&RunStatus::Running), "{seen:?}");
    assert_eq!(workflow.get_run(&run_id).await.unwrap().unwrap().text(), "plan");
    workflow.shutdown().await.unwrap();
}

/// A client on the server's socket.
struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let request = format!("ws://{address}/workflows/ws").into_client_request().unwrap();
        let mut client = Self(client_async(request, stream).await.unwrap().0);
        assert_eq!(client.hear().await["event"], "connected");
        client
    }

    async fn say(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next frame: JSON, bare or in the shape of an SSE event.
    async fn hear(&mut self) -> Value {
        let text = async {
            loop {
                if let Message::Text(text) = self.0.next().await.unwrap().unwrap() {
                    return text;
                }
            }
        };
        let text = timeout(PATIENCE, text).await.expect("there is another frame");
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&text);
        serde_json::from_str(data).unwrap()
    }

    /// Frames up to the first of this name.
    async fn hear_until(&mut self, name: &str) -> Vec<Value> {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|frame: &Value| frame["event"] != name) {
            heard.push(self.hear().await);
        }
        heard
    }
}

fn indexes(frames: &[Value]) -> Vec<u64> {
    frames.iter().filter_map(|frame| frame["event_index"].as_u64()).collect()
}

/// `long_running`: `disruption_catchup`, `websocket_reconnect` and `events_replay`.
#[tokio::test]
async fn clients_come_back_to_a_running_and_to_a_completed_run() {
    let kitchen = Kitchen::new().await;
    let folder = tempfile::tempdir().unwrap();
    let db = SqliteDb::new(folder.path().join("cookbook.db"));
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let wait = Step::function("Wait", move |_, input: Arc<StepInput>| {
        let gate = opened.clone();
        async move {
            let _permit = gate.acquire().await?;
            Ok::<_, Failure>(input.text())
        }
    });
    let workflow =
        Workflow::builder("Content Creation Workflow").db(db.clone()).step(kitchen.says("Research", "facts"));
    let workflow = workflow.step(wait).step(kitchen.says("Plan", "plan")).build().unwrap();
    let server = Server::builder(db).workflow(&workflow).open_to_all().start().await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { server.serve_on(vec![listener], std::future::pending()).await });

    // A client leaves in the middle.
    let mut client = Client::connect(address).await;
    let start = json!({ "action": "start-workflow", "workflow_id": "content-creation-workflow", "message": "AI" });
    client.say(start).await;
    client.hear_until("StepCompleted").await;
    let begun = client.hear_until("StepStarted").await;
    let run_id = begun.last().unwrap()["run_id"].as_str().unwrap().to_owned();
    let last = *indexes(&begun).last().unwrap();
    drop(client);

    // One comes back that knows nothing, another that knows where it was.
    let reconnect = |index: Value| json!({ "action": "reconnect", "run_id": run_id, "last_event_index": index });
    let mut first = Client::connect(address).await;
    first.say(reconnect(Value::Null)).await;
    let caught_up = first.hear_until("subscribed").await;
    assert_eq!((&caught_up[0]["event"], &caught_up[0]["missed_events"]), (&json!("catch_up"), &json!(last + 1)));
    assert_eq!(indexes(&caught_up), (0..=last).collect::<Vec<_>>());
    let mut second = Client::connect(address).await;
    second.say(reconnect(json!(last - 1))).await;
    let missed = second.hear_until("subscribed").await;
    assert_eq!(indexes(&missed), [last]);
    gate.add_permits(1);
    let (one, other) = (first.hear_until("WorkflowCompleted").await, second.hear_until("WorkflowCompleted").await);
    assert_eq!(one, other);
    let end = *indexes(&one).last().unwrap();
    assert_eq!(indexes(&one), (last + 1..=end).collect::<Vec<_>>());

    // It has ended: everything again, wherever the client was.
    let mut third = Client::connect(address).await;
    third.say(reconnect(Value::Null)).await;
    let replayed = third.hear_until("WorkflowCompleted").await;
    assert_eq!((&replayed[0]["event"], &replayed[0]["total_events"]), (&json!("replay"), &json!(end + 1)));
    assert_eq!(replayed[1..], [&caught_up[1..caught_up.len() - 1], &one[..]].concat());
    third.say(reconnect(json!(end - 2))).await;
    assert_eq!(third.hear_until("WorkflowCompleted").await, replayed);
    serving.abort();
}
