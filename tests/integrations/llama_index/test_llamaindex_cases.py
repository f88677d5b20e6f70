"""Small inputs with which query engines once lost a highlight, or marked what is no evidence, each with the right value."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_index.core import (
    Document,
    MockEmbedding,
    Settings,
    SQLDatabase,
    VectorStoreIndex,
    get_response_synthesizer,
)
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import Response
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.evaluation import FaithfulnessEvaluator, RelevancyEvaluator
from llama_index.core.extractors import KeywordExtractor
from llama_index.core.indices.query.query_transform.base import StepDecomposeQueryTransform
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import LongContextReorder, MetadataReplacementPostProcessor
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import (
    CitationQueryEngine,
    MultiStepQueryEngine,
    NLSQLTableQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
)
from llama_index.core.question_gen.types import SubQuestion
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from llama_index.core.tools import QueryEngineTool, ToolMetadata
from llama_index.llms.seka import HighlightPostprocessor, SekaLLM, collect_reports
from llama_index.llms.seka.flow import current_flow

from seka_rag import Sentences, SteeredModel, Trusted, TrustPolicy
from seka_rag.errors import SteeringError

QUESTION = "Where does Greta live?"
LYON = "Greta lives in Lyon."
HANDBOOK = Trusted(Sentences(), TrustPolicy(sources=["handbook/*"]))


@pytest.fixture
def model(engine):
    return lambda **settings: SekaLLM(steered_model=engine, max_tokens=2, **settings)


@pytest.fixture
def asking(monkeypatch):
    """What is marked in each call while a function runs, and the reports."""
    texts, answered = [], SekaLLM._answered

    def recorded(self, request, *args, **kwargs):
        texts.append([p.text for p in request.prompts])
        return answered(self, request, *args, **kwargs)

    monkeypatch.setattr(SekaLLM, "_answered", recorded)

    def run(work):
        texts.clear()
        with collect_reports() as reports:
            work()
        marked = [
            [text[h["message"]][h["start"] : h["end"]] for h in report["highlights"]]
            for text, report in zip(texts, reports, strict=True)
        ]
        return marked, reports

    return run


def node(text, **metadata):
    return TextNode(text=text, metadata=metadata)


def query_engine(nodes, llm, **settings):
    return VectorStoreIndex(nodes).as_query_engine(llm=llm, **settings)


class TestTrust:
    """Wherever a policy is given, it holds."""

    NODES = (node("Greta lives in Oslo.", file_path="upload/x"), node(LYON, file_path="handbook/a"))

    @pytest.mark.parametrize("where", ["postprocessor", "model", "equal objects", "both", "one object"])
    def test_a_policy_holds_wherever_it_is_given(self, model, asking, where):
        chosen = HighlightPostprocessor(HANDBOOK)
        own = {
            "postprocessor": "sentences",
            "model": HANDBOOK,
            "equal objects": HighlightPostprocessor(HANDBOOK),
            "both": HANDBOOK,
            "one object": chosen,
        }[where]
        after = [] if where == "model" else [chosen]
        asked = query_engine(list(self.NODES), model(highlighter=own), node_postprocessors=after)
        marked, reports = asking(lambda: asked.query(QUESTION))
        assert marked == [[LYON]]
        assert reports[0]["highlights"][0]["source"] == "handbook/a"

    def test_two_policies_that_differ_mark_nothing_and_say_so(self, model, asking):
        chosen = HighlightPostprocessor(HANDBOOK)
        for other in (HighlightPostprocessor(), Trusted(Sentences(), TrustPolicy(sources=["upload/*"]))):
            strict = model(highlighter=other, on_unmarked="raise")
            with pytest.raises(SteeringError, match="other settings than the model's"):
                query_engine(list(self.NODES), strict, node_postprocessors=[chosen]).query(QUESTION)

    def test_a_postprocessor_that_changes_nodes_afterwards_does_not_lose_it(self, model, asking):
        chosen, nodes = HighlightPostprocessor(HANDBOOK), [node("It rains.", window=f"It rains. {LYON}")]
        after = [chosen, MetadataReplacementPostProcessor(target_metadata_key="window")]
        with pytest.raises(SteeringError, match="Put that postprocessor last"):
            query_engine(nodes, model(on_unmarked="raise"), node_postprocessors=after).query(QUESTION)

    def test_nor_does_a_question_that_a_chat_rewrites(self, model):
        nodes = [node("It rains.", file_path="upload/x", window="It rains. Greta lives in Oslo.")]
        chat = CondensePlusContextChatEngine.from_defaults(
            VectorStoreIndex(nodes).as_retriever(),
            llm=model(on_unmarked="raise"),
            node_postprocessors=[
                HighlightPostprocessor(HANDBOOK),
                MetadataReplacementPostProcessor(target_metadata_key="window"),
            ],
            chat_history=[ChatMessage("Hello"), ChatMessage("Hello", role="assistant")],
        )
        with pytest.raises(SteeringError, match="Put that postprocessor last"):
            chat.chat(QUESTION)

    def test_without_a_retrieval_that_is_known_sources_are_not(self, model, asking):
        synthesizer = get_response_synthesizer(llm=model(highlighter=HANDBOOK))
        marked, reports = asking(lambda: synthesizer.synthesize(QUESTION, nodes=[NodeWithScore(node=self.NODES[1])]))
        assert marked == [[]]
        assert "not on the list" in reports[0]["warnings"][0]


class TestWhatIsEvidence:
    @pytest.mark.parametrize(
        "text",
        [
            'The guide of the town says: "Greta lives in Lyon."',
            "The guide of the town says that 'Greta lives in Lyon' since May.",
            "The guide of the town says: Greta lives in Lyon.",
        ],
    )
    def test_a_passage_that_quotes_what_the_model_answered_before(self, model, asking, text):
        template, answered = PromptTemplate("{context_str}\n{query_str}"), current_flow().answers
        answered.append(LYON)
        assert asking(lambda: model().predict(template, context_str=text, query_str=QUESTION))[0] == [[text]]

    def test_metadata_that_a_pipeline_wrote(self, model, asking):
        steps = [SentenceSplitter(), KeywordExtractor(llm=MockLLM(max_tokens=8))]
        document = Document(text=f"{LYON} She rows.", metadata={"moved": "Greta lives in Oslo."})
        nodes = IngestionPipeline(transformations=steps).run(documents=[document])
        assert "excerpt_keywords" in nodes[0].get_content(metadata_mode=MetadataMode.LLM)
        assert asking(lambda: query_engine(nodes, model()).query(QUESTION))[0] == [[LYON]]

    def test_metadata_in_a_template_of_ones_own(self, model, asking):
        template = "Metadata: {metadata_str}\n-----\nContent: {content}"
        nodes = [TextNode(text=LYON, metadata={"Place": "Greta lives in Oslo, yes she does."}, text_template=template)]
        assert asking(lambda: query_engine(nodes, model()).query(QUESTION))[0] == [[LYON]]

    @pytest.mark.parametrize(
        "text", ["service: relay\nport: 8443", "name,port\nrelay,8443", "note: the relay service has port 8443"]
    )
    def test_rows_and_records_are_content(self, model, asking, text):
        asked = query_engine([node(text, file_path="ports.txt")], model())
        assert asking(lambda: asked.query("Which port has the relay service?"))[0] == [[text]]

    def test_the_paragraphs_of_one_node_are_one_passage(self, model, asking):
        text = "Greta grew up in Oslo.\n\nGreta studied in Rome.\n\nGreta lives in Lyon.\n\nGreta likes risotto."
        for llm, after in ((model(), []), (model(highlighter=(chosen := HighlightPostprocessor())), [chosen])):
            asked = query_engine([node(text)], llm, node_postprocessors=after)
            assert asking(lambda asked=asked: asked.query(QUESTION))[0] == [[LYON]]

    @pytest.mark.parametrize(
        ("texts", "kept", "highlighter", "expected"),
        [
            (
                [f"Greta lives in house {i}." for i in range(6)],
                [4, 5],
                "sentences",
                [4, 5],
            ),  # four of a file were chosen
            ([f"It rains. {LYON}", f"{LYON} She rows."], [1], "sentences", None),  # a sentence counts where it is first
            (["It rains.", "Boris bakes.", LYON], [1, 2], "top_k", [1]),
        ],
    )
    @pytest.mark.parametrize("mode", ["compact", "simple_summarize"])
    def test_of_the_nodes_that_a_reranker_keeps(self, model, asking, texts, kept, highlighter, expected, mode):
        class InOrder(BaseRetriever):
            def _retrieve(self, query_bundle):
                return [NodeWithScore(node=node(text, file_path="greta.txt")) for text in texts]

        class Keep(BaseNodePostprocessor):
            def _postprocess_nodes(self, nodes, query_bundle=None):
                return [nodes[i] for i in kept]

        asked = RetrieverQueryEngine.from_args(
            InOrder(), llm=model(highlighter=highlighter), node_postprocessors=[Keep()], response_mode=mode
        )
        assert asking(lambda: asked.query(QUESTION))[0] == [
            [LYON] if expected is None else [texts[i] for i in expected]
        ]

    @pytest.mark.parametrize("postprocessor", [True, False])
    def test_citations(self, model, asking, postprocessor):
        """The engine splits nodes anew and writes "Source 1:" between a node's metadata and its text."""
        chosen = [HighlightPostprocessor()] if postprocessor else []
        llm = model(highlighter=chosen[0]) if chosen else model()
        index = VectorStoreIndex([node(LYON, window="It rains."), node("Boris bakes bread.")])
        asked = CitationQueryEngine.from_args(index, llm=llm, node_postprocessors=chosen)
        assert asking(lambda: asked.query(QUESTION))[0] == [[LYON]]

    def test_another_order_or_text_before_the_choice(self, model, asking):
        nodes = [
            node(LYON, window=f"It rains. {LYON} She rows."),
            node("Boris bakes bread.", window="Boris bakes bread."),
        ]
        for steps in ([0, LongContextReorder()], [MetadataReplacementPostProcessor(target_metadata_key="window"), 0]):
            chosen = HighlightPostprocessor()
            after = [step or chosen for step in steps]
            asked = query_engine(nodes, model(highlighter=chosen), node_postprocessors=after)
            assert asking(lambda asked=asked: asked.query(QUESTION))[0] == [[LYON]]


class TestWhatTheModelSaid:
    """An answer is no evidence for the next."""

    @pytest.fixture
    def saying(self, engine, monkeypatch):
        """The model answers everything with a sentence that resembles the question."""
        answer = engine.chat([{"role": "user", "content": "Hello"}], max_new_tokens=1)
        said = answer.__class__(**{**vars(answer), "text": "Greta lives in Paris."})
        monkeypatch.setattr(engine, "chat", lambda messages, **options: said)

    def test_summaries_of_summaries(self, model, asking, saying):
        text = " ".join(f"Greta lives in house number {i} of the old street." for i in range(40))
        small = model(context_window=300)
        synthesizer = get_response_synthesizer(llm=small, response_mode="tree_summarize")
        marked, reports = asking(lambda: synthesizer.synthesize(QUESTION, nodes=[NodeWithScore(node=node(text))]))
        assert len(marked) > 2
        assert all(marked[:-1])
        assert marked[-1] == []
        assert "what the model answered before" in reports[-1]["warnings"][0]

    def test_an_answer_is_one_in_its_own_query_only(self, model, asking, saying):
        paris, template = "Greta lives in Paris.", PromptTemplate("{context_str}\n{query_str}")

        class Engine(BaseQueryEngine):
            """Asks a function."""

            def __init__(self, ask):
                super().__init__(None)
                self.ask = ask

            def _get_prompt_modules(self):
                return {}

            def _query(self, query):
                return Response(self.ask(query.query_str))

            _aquery = _query

        table = Engine(lambda query: model().predict(template, context_str=paris, query_str=query))
        twice = Engine(lambda query: str([table.query(query) for _ in range(2)]))
        for _ in range(2):
            assert asking(lambda: table.query(QUESTION))[0] == [[paris]]
            assert asking(lambda: twice.query(QUESTION))[0] == [[paris], []]

    async def test_an_answer_is_one_in_its_own_task_only(self, model, asking):
        llm, template = model(), PromptTemplate("{context_str}\n{query_str}")
        current_flow()  # known before the tasks begin, as after a call when a service starts

        async def ask(before):
            answer = (await llm.acomplete("Hello")).text if before else known[0]
            known.append(answer)
            with collect_reports() as reports:
                await llm.apredict(template, context_str=f"{answer}", query_str=answer)
            return reports[0]

        known = list[str]()
        own, other = await asyncio.create_task(ask(True)), await asyncio.create_task(ask(False))
        assert "what the model answered before" in own["warnings"][0]
        assert not any("answered before" in warning for warning in other["warnings"])

    def test_several_selections_of_a_router(self, model, asking, saying):
        class Both:
            def select(self, choices, query):
                from llama_index.core.base.base_selector import MultiSelection, SingleSelection

                return MultiSelection(selections=[SingleSelection(index=i, reason="") for i in (0, 1)])

        tools = [
            QueryEngineTool.from_defaults(query_engine([node(text)], model()), description=text)
            for text in (LYON, "Greta lives in Rome.")
        ]
        router = RouterQueryEngine(selector=Both(), query_engine_tools=tools, llm=model())
        assert asking(lambda: router.query(QUESTION))[0] == [[LYON], ["Greta lives in Rome."], []]

    def test_sub_questions(self, model, asking, saying):
        class Twice:
            def generate(self, tools, query):
                return [SubQuestion(sub_question=QUESTION, tool_name="a")] * 2

        tool = QueryEngineTool(query_engine([node(LYON)], model()), ToolMetadata(name="a", description="a"))
        synthesizer = get_response_synthesizer(llm=model())
        asked = SubQuestionQueryEngine(Twice(), synthesizer, [tool], use_async=False, verbose=False)
        assert asking(lambda: asked.query(QUESTION))[0] == [[LYON], [LYON], []]

    def test_questions_in_several_steps(self, model, asking, saying):
        llm = model()
        steps = MultiStepQueryEngine(
            query_engine([node(LYON)], llm),
            StepDecomposeQueryTransform(llm=llm),
            get_response_synthesizer(llm=llm),
            num_steps=2,
            early_stopping=False,
        )
        marked, _ = asking(lambda: steps.query(QUESTION))
        assert marked.count([LYON]) == 2
        assert all(pieces in ([], [LYON]) for pieces in marked)
        assert marked[-1] == []  # the answers of the steps

    def test_an_error_of_a_database_repeats_what_the_model_said(self, model, asking, saying):
        sqlalchemy = pytest.importorskip("sqlalchemy")
        database = sqlalchemy.create_engine("sqlite:///:memory:", poolclass=sqlalchemy.pool.StaticPool)
        with database.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE homes (name TEXT, city TEXT)"))
        asked = NLSQLTableQueryEngine(
            SQLDatabase(database), tables=["homes"], llm=model(), embed_model=MockEmbedding(4)
        )
        marked, _ = asking(lambda: asked.query(QUESTION))
        assert len(marked) == 2  # the statement, and the answer
        assert marked == [[], []]

    def test_judges(self, model, asking, saying):
        llm = model()
        response = query_engine([node(LYON)], llm).query(QUESTION)
        for judge in (FaithfulnessEvaluator(llm=llm), RelevancyEvaluator(llm=llm)):
            marked, _ = asking(lambda judge=judge: judge.evaluate_response(query=QUESTION, response=response))
            assert marked == [[]]


class TestReports:
    def test_of_a_stream_that_is_read_when_nobody_collects(self, model):
        asked = query_engine([node(LYON)], model(), streaming=True)
        with collect_reports() as reports:
            response = asked.query(QUESTION)
        list(response.response_gen)
        assert [len(r["highlights"]) for r in reports] == [1]
        assert response.metadata["seka"]["reports"] == reports

    async def test_on_the_response_of_a_query_engine(self, model):
        llm = model()
        asked = query_engine([node(LYON)], llm)
        for response in (asked.query(QUESTION), await asked.aquery(QUESTION)):
            (report,) = response.metadata["seka"]["reports"]
            assert len(report["highlights"]) == 1
            llm.complete("Hello")
            assert len(response.metadata["seka"]["reports"]) == 1

    @pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "simple_summarize"])
    async def test_of_streams_that_are_read_later_and_elsewhere(self, model, mode):
        llm = model()
        asked = query_engine([node(LYON)], llm, streaming=True, response_mode=mode)
        with collect_reports() as reports:
            response, later = asked.query(QUESTION), await asked.aquery(QUESTION)
        llm.complete("Hello")
        with ThreadPoolExecutor(1) as elsewhere:
            elsewhere.submit(lambda: list(response.response_gen)).result()
        assert [piece async for piece in later.async_response_gen()]
        llm.complete("Hello")
        assert [len(r.metadata["seka"]["reports"]) for r in (response, later)] == [1, 1]
        assert len(reports) == 2

    def test_of_direct_calls_and_failed_queries_are_not_kept(self, model):
        llm = model(on_unmarked="raise")
        with pytest.raises(SteeringError):
            query_engine([node(LYON)], llm).query("Who plays chess?")
        llm.complete("Hello")
        assert (current_flow().reports, current_flow().asking) == (None, None)


class TestPacking:
    @pytest.mark.parametrize("mode", ["tree_summarize", "accumulate", "compact", "refine"])
    def test_contexts_that_are_packed_to_the_last_token_fit(self, engine, mode, monkeypatch):
        answer, lengths = engine.chat([{"role": "user", "content": "Hello"}], max_new_tokens=1), []

        def measured(messages, **options):
            lengths.append(len(engine.tokenize_chat(messages)) + options["max_new_tokens"])
            return answer

        monkeypatch.setattr(engine, "chat", measured)
        text = " ".join(f"Fact {i}: Greta lives in house {i}." for i in range(160))
        llm = SekaLLM(steered_model=engine, max_tokens=1)
        synthesizer = get_response_synthesizer(llm=llm, response_mode=mode)
        synthesizer.synthesize(QUESTION, nodes=[NodeWithScore(node=node(text))])
        assert max(lengths) <= engine.context_length
        assert max(lengths) > 0.7 * engine.context_length

    def test_the_models_own_tokens_count_unless_others_are_given(self, model, monkeypatch):
        import llama_index.core

        monkeypatch.setattr(llama_index.core, "global_tokenizer", None)
        llm = model()
        assert llm.metadata.model_name == "tiny"
        assert Settings.tokenizer("Greta lives") == llm.engine.tokenizer.tokenize("Greta lives")
        monkeypatch.setattr(llama_index.core, "global_tokenizer", str.split)
        assert model().metadata.model_name == "tiny"
        assert llama_index.core.global_tokenizer is str.split


class TestTemplates:
    GEMMA = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}<|im_start|>model\n"
    )

    def _with_template(self, engine, template):
        import copy

        tokenizer = copy.deepcopy(engine.tokenizer)
        tokenizer.chat_template = template
        return SteeredModel(engine.hf_model, tokenizer, bank=engine.bank, name="templated")

    def test_no_system_role(self, engine, asking):
        llm = SekaLLM(steered_model=self._with_template(engine, self.GEMMA), max_tokens=1)
        marked, reports = asking(lambda: query_engine([node(LYON)], llm).query(QUESTION))
        assert marked == [[LYON]]
        assert reports[0]["tokens_edited"] == reports[0]["tokens_marked"] > 0
        assert any("takes no system message" in w for w in reports[0]["warnings"])

    def test_options_of_the_template(self, engine, seen):
        thinking = "{% if enable_thinking is defined and not enable_thinking %}<|im_end|>{% endif %}"
        engine2 = self._with_template(engine, engine.tokenizer.chat_template + thinking)
        runs = []
        engine2._run = lambda call: runs.append(call.prompts[0].ids) or engine._run(call)
        llm = SekaLLM(steered_model=engine2, max_tokens=1)
        off = {"chat_template_kwargs": {"enable_thinking": False}}
        llm.chat([ChatMessage("Hello")])
        llm.chat([ChatMessage("Hello")], **off)
        llm.model_copy(update=off).chat([ChatMessage("Hello")])
        query_engine([node(LYON)], SekaLLM(steered_model=engine2, max_tokens=1, **off)).query(QUESTION)
        end = engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert [ids[-1] == end for ids in runs] == [False, True, True, True]
