export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]

export type Database = {

  "public": {
          Tables: {
            "address_book": {
                  Row: {
                    "changed_at": string,"kind": string,"name": string | null,"scope": string,"tenant_id": string,"value": string
                  }
                  ComputedFields: never
                  Insert: {
                    "changed_at": string,"kind": string,"name"?: string | null,"scope": string,"tenant_id": string,"value": string
                  }
                  Update: {
                    "changed_at"?: string,"kind"?: string,"name"?: string | null,"scope"?: string,"tenant_id"?: string,"value"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "address_book_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"agent_prompts": {
                  Row: {
                    "agent_id": string,"business_context": NonNullable<Json>,"context_summary": string,"created_at": string,"id": string,"is_active": boolean,"response_quality": number | null,"system_prompt": string,"tenant_id": string,"tokens_used": number | null,"trigger_reason": string,"version": number
                  }
                  ComputedFields: never
                  Insert: {
                    "agent_id": string,"business_context"?: NonNullable<Json>,"context_summary"?: string,"created_at"?: string,"id"?: string,"is_active"?: boolean,"response_quality"?: number | null,"system_prompt": string,"tenant_id": string,"tokens_used"?: number | null,"trigger_reason"?: string,"version"?: number
                  }
                  Update: {
                    "agent_id"?: string,"business_context"?: NonNullable<Json>,"context_summary"?: string,"created_at"?: string,"id"?: string,"is_active"?: boolean,"response_quality"?: number | null,"system_prompt"?: string,"tenant_id"?: string,"tokens_used"?: number | null,"trigger_reason"?: string,"version"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "agent_prompts_agent_id_fkey"
      columns: ["tenant_id","agent_id"]
isOneToOne: false
      referencedRelation: "ai_agents"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"ai_agents": {
                  Row: {
                    "active_hours": Json | null,"buffer_max_seconds": number,"buffer_seconds": number,"business_prompt": string,"business_rules": NonNullable<Json>,"created_at": string,"description": string | null,"id": string,"is_active": boolean,"is_default": boolean,"max_tokens_per_message": number,"model": string,"name": string,"objectives_prompt": string,"personality_prompt": string,"role": string,"temperature": number | null,"tenant_id": string,"trigger_keywords": (string)[],"updated_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "active_hours"?: Json | null,"buffer_max_seconds"?: number,"buffer_seconds"?: number,"business_prompt"?: string,"business_rules"?: NonNullable<Json>,"created_at"?: string,"description"?: string | null,"id"?: string,"is_active"?: boolean,"is_default"?: boolean,"max_tokens_per_message"?: number,"model"?: string,"name": string,"objectives_prompt"?: string,"personality_prompt"?: string,"role"?: string,"temperature"?: number | null,"tenant_id": string,"trigger_keywords"?: (string)[],"updated_at"?: string
                  }
                  Update: {
                    "active_hours"?: Json | null,"buffer_max_seconds"?: number,"buffer_seconds"?: number,"business_prompt"?: string,"business_rules"?: NonNullable<Json>,"created_at"?: string,"description"?: string | null,"id"?: string,"is_active"?: boolean,"is_default"?: boolean,"max_tokens_per_message"?: number,"model"?: string,"name"?: string,"objectives_prompt"?: string,"personality_prompt"?: string,"role"?: string,"temperature"?: number | null,"tenant_id"?: string,"trigger_keywords"?: (string)[],"updated_at"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "ai_agents_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"ai_prices": {
                  Row: {
                    "cached": number,"currency": string,"input": number,"is_verified": boolean,"model": string,"output": number,"source": string,"valid_from": string
                  }
                  ComputedFields: never
                  Insert: {
                    "cached": number,"currency"?: string,"input": number,"is_verified"?: boolean,"model": string,"output": number,"source": string,"valid_from": string
                  }
                  Update: {
                    "cached"?: number,"currency"?: string,"input"?: number,"is_verified"?: boolean,"model"?: string,"output"?: number,"source"?: string,"valid_from"?: string
                  }
                  Relationships: [

                  ]
                },"ai_threads": {
                  Row: {
                    "chat_id": string,"closed_at": string | null,"closed_reason": string | null,"context_from": string | null,"created_at": string,"id": string,"last_input_tokens": number,"run_count": number,"summary": string | null,"tenant_id": string,"token_count": number
                  }
                  ComputedFields: never
                  Insert: {
                    "chat_id": string,"closed_at"?: string | null,"closed_reason"?: string | null,"context_from"?: string | null,"created_at": string,"id"?: string,"last_input_tokens"?: number,"run_count"?: number,"summary"?: string | null,"tenant_id": string,"token_count"?: number
                  }
                  Update: {
                    "chat_id"?: string,"closed_at"?: string | null,"closed_reason"?: string | null,"context_from"?: string | null,"created_at"?: string,"id"?: string,"last_input_tokens"?: number,"run_count"?: number,"summary"?: string | null,"tenant_id"?: string,"token_count"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "ai_threads_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"ai_usage": {
                  Row: {
                    "agent_id": string | null,"cached_tokens": number,"chat_id": string | null,"cost": number | null,"created_at": string,"currency": string | null,"id": string,"input_tokens": number,"latency_ms": number | null,"model": string,"output_tokens": number,"purpose": string,"reasoning_tokens": number,"response_id": string | null,"tenant_id": string,"thread_id": string | null,"total_tokens": number
                  }
                  ComputedFields: never
                  Insert: {
                    "agent_id"?: string | null,"cached_tokens"?: number,"chat_id"?: string | null,"cost"?: number | null,"created_at"?: string,"currency"?: string | null,"id"?: string,"input_tokens": number,"latency_ms"?: number | null,"model": string,"output_tokens": number,"purpose": string,"reasoning_tokens"?: number,"response_id"?: string | null,"tenant_id": string,"thread_id"?: string | null,"total_tokens": number
                  }
                  Update: {
                    "agent_id"?: string | null,"cached_tokens"?: number,"chat_id"?: string | null,"cost"?: number | null,"created_at"?: string,"currency"?: string | null,"id"?: string,"input_tokens"?: number,"latency_ms"?: number | null,"model"?: string,"output_tokens"?: number,"purpose"?: string,"reasoning_tokens"?: number,"response_id"?: string | null,"tenant_id"?: string,"thread_id"?: string | null,"total_tokens"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "ai_usage_agent_id_fkey"
      columns: ["tenant_id","agent_id"]
isOneToOne: false
      referencedRelation: "ai_agents"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "ai_usage_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "ai_usage_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    },{
      foreignKeyName: "ai_usage_thread_id_fkey"
      columns: ["tenant_id","thread_id"]
isOneToOne: false
      referencedRelation: "ai_threads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"alert_kinds": {
                  Row: {
                    "kind": string,"meaning": string,"subject": string,"texts": NonNullable<Json>
                  }
                  ComputedFields: never
                  Insert: {
                    "kind": string,"meaning": string,"subject": string,"texts": NonNullable<Json>
                  }
                  Update: {
                    "kind"?: string,"meaning"?: string,"subject"?: string,"texts"?: NonNullable<Json>
                  }
                  Relationships: [

                  ]
                },"alerts": {
                  Row: {
                    "chat_id": string | null,"created_at": string,"details": NonNullable<Json>,"id": string,"kind": string,"last_at": string,"message": string,"number_id": string | null,"occurrences": number,"resolved_at": string | null,"resolved_by": string | null,"severity": string,"subject": string,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "chat_id"?: string | null,"created_at"?: string,"details"?: NonNullable<Json>,"id"?: string,"kind": string,"last_at"?: string,"message": string,"number_id"?: string | null,"occurrences"?: number,"resolved_at"?: string | null,"resolved_by"?: string | null,"severity"?: string,"subject"?: string,"tenant_id": string
                  }
                  Update: {
                    "chat_id"?: string | null,"created_at"?: string,"details"?: NonNullable<Json>,"id"?: string,"kind"?: string,"last_at"?: string,"message"?: string,"number_id"?: string | null,"occurrences"?: number,"resolved_at"?: string | null,"resolved_by"?: string | null,"severity"?: string,"subject"?: string,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "alerts_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "alerts_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "alerts_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "alerts_resolved_by_fkey"
      columns: ["tenant_id","resolved_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "alerts_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"audit_log": {
                  Row: {
                    "action": string,"after": Json | null,"before": Json | null,"happened_at": string,"id": string,"row_id": string | null,"row_name": string | null,"table_name": string,"tenant_id": string,"user_id": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "action": string,"after"?: Json | null,"before"?: Json | null,"happened_at": string,"id"?: string,"row_id"?: string | null,"row_name"?: string | null,"table_name": string,"tenant_id": string,"user_id"?: string | null
                  }
                  Update: {
                    "action"?: string,"after"?: Json | null,"before"?: Json | null,"happened_at"?: string,"id"?: string,"row_id"?: string | null,"row_name"?: string | null,"table_name"?: string,"tenant_id"?: string,"user_id"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "audit_log_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    },{
      foreignKeyName: "audit_log_user_id_fkey"
      columns: ["tenant_id","user_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"calling_codes": {
                  Row: {
                    "country": string,"prefix": string,"timezone": string
                  }
                  ComputedFields: never
                  Insert: {
                    "country": string,"prefix": string,"timezone": string
                  }
                  Update: {
                    "country"?: string,"prefix"?: string,"timezone"?: string
                  }
                  Relationships: [

                  ]
                },"channel_secrets": {
                  Row: {
                    "checked_at": string | null,"claim": string | null,"expires_at": string | null,"issued_at": string | null,"kind": string,"lease_until": string | null,"number_id": string,"replaced_at": string | null,"secret_id": string,"tenant_id": string,"updated_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "checked_at"?: string | null,"claim"?: string | null,"expires_at"?: string | null,"issued_at"?: string | null,"kind": string,"lease_until"?: string | null,"number_id": string,"replaced_at"?: string | null,"secret_id": string,"tenant_id": string,"updated_at"?: string
                  }
                  Update: {
                    "checked_at"?: string | null,"claim"?: string | null,"expires_at"?: string | null,"issued_at"?: string | null,"kind"?: string,"lease_until"?: string | null,"number_id"?: string,"replaced_at"?: string | null,"secret_id"?: string,"tenant_id"?: string,"updated_at"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "channel_secrets_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "channel_secrets_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"chats": {
                  Row: {
                    "agent_paused_until": string | null,"block_state": string,"created_at": string,"enriched_at": string | null,"free_entry_reply_by": string | null,"free_entry_until": string | null,"id": string,"inbox_hour": string,"is_free_entry_confirmed": boolean,"last_inbound_at": string | null,"last_interaction_at": string,"last_outbound_at": string | null,"lead_id": string,"news_since": string | null,"number_id": string,"reach_state": string,"referral": Json | null,"referral_at": string | null,"tenant_id": string,"thread_id": string | null,"unread_count": number,"window_expires_at": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "agent_paused_until"?: string | null,"block_state"?: string,"created_at"?: string,"enriched_at"?: string | null,"free_entry_reply_by"?: string | null,"free_entry_until"?: string | null,"id"?: string,"inbox_hour"?: never,"is_free_entry_confirmed"?: boolean,"last_inbound_at"?: string | null,"last_interaction_at": string,"last_outbound_at"?: string | null,"lead_id": string,"news_since"?: string | null,"number_id": string,"reach_state"?: string,"referral"?: Json | null,"referral_at"?: string | null,"tenant_id": string,"thread_id"?: string | null,"unread_count"?: number,"window_expires_at"?: string | null
                  }
                  Update: {
                    "agent_paused_until"?: string | null,"block_state"?: string,"created_at"?: string,"enriched_at"?: string | null,"free_entry_reply_by"?: string | null,"free_entry_until"?: string | null,"id"?: string,"inbox_hour"?: never,"is_free_entry_confirmed"?: boolean,"last_inbound_at"?: string | null,"last_interaction_at"?: string,"last_outbound_at"?: string | null,"lead_id"?: string,"news_since"?: string | null,"number_id"?: string,"reach_state"?: string,"referral"?: Json | null,"referral_at"?: string | null,"tenant_id"?: string,"thread_id"?: string | null,"unread_count"?: number,"window_expires_at"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "chats_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "chats_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "chats_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "chats_thread_id_fkey"
      columns: ["tenant_id","thread_id"]
isOneToOne: false
      referencedRelation: "ai_threads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"consent_events": {
                  Row: {
                    "created_at": string,"evidence": string | null,"happened_at": string,"id": string,"kind": string,"lead_id": string,"scope": string,"source": string,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "created_at"?: string,"evidence"?: string | null,"happened_at": string,"id"?: string,"kind": string,"lead_id": string,"scope": string,"source": string,"tenant_id": string
                  }
                  Update: {
                    "created_at"?: string,"evidence"?: string | null,"happened_at"?: string,"id"?: string,"kind"?: string,"lead_id"?: string,"scope"?: string,"source"?: string,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "consent_events_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"consent_keywords": {
                  Row: {
                    "is_only_after_bulk": boolean,"kind": string,"language": string,"phrase": string,"scope": string
                  }
                  ComputedFields: never
                  Insert: {
                    "is_only_after_bulk"?: boolean,"kind": string,"language": string,"phrase": string,"scope": string
                  }
                  Update: {
                    "is_only_after_bulk"?: boolean,"kind"?: string,"language"?: string,"phrase"?: string,"scope"?: string
                  }
                  Relationships: [

                  ]
                },"conversations": {
                  Row: {
                    "assigned_to": string | null,"avg_response_time": number | null,"category": string | null,"chat_id": string,"closed_at": string | null,"closed_notice_at": string | null,"closed_reason": string | null,"conversion_value": number | null,"current_agent_id": string | null,"current_step": string,"first_response_time": number | null,"id": string,"intent": string | null,"last_at": string | null,"message_count": number,"opened_at": string,"outcome": string | null,"priority": number,"reopened_at": string | null,"requires_attention": boolean,"satisfaction_rating": number | null,"session_id": string,"status": string,"summary": string | null,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "assigned_to"?: string | null,"avg_response_time"?: number | null,"category"?: string | null,"chat_id": string,"closed_at"?: string | null,"closed_notice_at"?: string | null,"closed_reason"?: string | null,"conversion_value"?: number | null,"current_agent_id"?: string | null,"current_step"?: string,"first_response_time"?: number | null,"id"?: string,"intent"?: string | null,"last_at"?: string | null,"message_count"?: number,"opened_at": string,"outcome"?: string | null,"priority"?: number,"reopened_at"?: string | null,"requires_attention"?: boolean,"satisfaction_rating"?: number | null,"session_id"?: never,"status"?: string,"summary"?: string | null,"tenant_id": string
                  }
                  Update: {
                    "assigned_to"?: string | null,"avg_response_time"?: number | null,"category"?: string | null,"chat_id"?: string,"closed_at"?: string | null,"closed_notice_at"?: string | null,"closed_reason"?: string | null,"conversion_value"?: number | null,"current_agent_id"?: string | null,"current_step"?: string,"first_response_time"?: number | null,"id"?: string,"intent"?: string | null,"last_at"?: string | null,"message_count"?: number,"opened_at"?: string,"outcome"?: string | null,"priority"?: number,"reopened_at"?: string | null,"requires_attention"?: boolean,"satisfaction_rating"?: number | null,"session_id"?: never,"status"?: string,"summary"?: string | null,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "conversations_assigned_to_fkey"
      columns: ["tenant_id","assigned_to"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "conversations_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "conversations_current_agent_id_fkey"
      columns: ["tenant_id","current_agent_id"]
isOneToOne: false
      referencedRelation: "ai_agents"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"costs_daily": {
                  Row: {
                    "actual": number,"category": string,"currency": string,"day": string,"delivered": number,"estimated": number,"is_verified": boolean,"messages": number,"number_id": string,"saved_free_entry": number,"saved_free_quota": number,"tenant_id": string,"unpriced": number
                  }
                  ComputedFields: never
                  Insert: {
                    "actual": number,"category": string,"currency": string,"day": string,"delivered": number,"estimated": number,"is_verified": boolean,"messages": number,"number_id": string,"saved_free_entry": number,"saved_free_quota": number,"tenant_id": string,"unpriced": number
                  }
                  Update: {
                    "actual"?: number,"category"?: string,"currency"?: string,"day"?: string,"delivered"?: number,"estimated"?: number,"is_verified"?: boolean,"messages"?: number,"number_id"?: string,"saved_free_entry"?: number,"saved_free_quota"?: number,"tenant_id"?: string,"unpriced"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "costs_daily_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "costs_daily_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"crm_analyses": {
                  Row: {
                    "analysed_at": string,"chat_id": string,"confidence": number | null,"error": string | null,"evidence": NonNullable<Json>,"id": string,"kept_fields": (string)[],"language": string | null,"lead_id": string,"model": string | null,"next_action": string | null,"next_action_at": string | null,"outcome": string,"priority": number | null,"profile_status": string | null,"satisfaction": number | null,"sentiment": string | null,"summary": string | null,"tenant_id": string,"until_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "analysed_at": string,"chat_id": string,"confidence"?: number | null,"error"?: string | null,"evidence"?: NonNullable<Json>,"id"?: string,"kept_fields"?: (string)[],"language"?: string | null,"lead_id": string,"model"?: string | null,"next_action"?: string | null,"next_action_at"?: string | null,"outcome": string,"priority"?: number | null,"profile_status"?: string | null,"satisfaction"?: number | null,"sentiment"?: string | null,"summary"?: string | null,"tenant_id": string,"until_at": string
                  }
                  Update: {
                    "analysed_at"?: string,"chat_id"?: string,"confidence"?: number | null,"error"?: string | null,"evidence"?: NonNullable<Json>,"id"?: string,"kept_fields"?: (string)[],"language"?: string | null,"lead_id"?: string,"model"?: string | null,"next_action"?: string | null,"next_action_at"?: string | null,"outcome"?: string,"priority"?: number | null,"profile_status"?: string | null,"satisfaction"?: number | null,"sentiment"?: string | null,"summary"?: string | null,"tenant_id"?: string,"until_at"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "crm_analyses_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "crm_analyses_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"customer_leads": {
                  Row: {
                    "assigned_to": string | null,"business_category": string | null,"chat_id": string | null,"company": string | null,"created_at": string,"customer_type": string | null,"email": string | null,"id": string,"is_active": boolean,"label1": string | null,"label2": string | null,"label3": string | null,"last_activity": string | null,"lead_grade": string,"lead_status": string,"merged_at": string | null,"merged_by": string | null,"merged_into": string | null,"metadata": NonNullable<Json>,"name": string | null,"name_source": string | null,"named_at": string | null,"next_action": string | null,"next_action_at": string | null,"opt_out_scope": string | null,"opted_out_at": string | null,"phone": string | null,"priority": number,"profile_status": string | null,"qualification_score": number,"tags": (string)[],"tenant_id": string,"thread_id": string | null,"thread_token_count": number,"timezone": string | null,"updated_at": string,"user_name": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "assigned_to"?: string | null,"business_category"?: string | null,"chat_id"?: string | null,"company"?: string | null,"created_at"?: string,"customer_type"?: string | null,"email"?: string | null,"id"?: string,"is_active"?: boolean,"label1"?: string | null,"label2"?: string | null,"label3"?: string | null,"last_activity"?: string | null,"lead_grade"?: string,"lead_status"?: string,"merged_at"?: string | null,"merged_by"?: string | null,"merged_into"?: string | null,"metadata"?: NonNullable<Json>,"name"?: string | null,"name_source"?: string | null,"named_at"?: string | null,"next_action"?: string | null,"next_action_at"?: string | null,"opt_out_scope"?: string | null,"opted_out_at"?: string | null,"phone"?: string | null,"priority"?: number,"profile_status"?: string | null,"qualification_score"?: number,"tags"?: (string)[],"tenant_id": string,"thread_id"?: string | null,"thread_token_count"?: number,"timezone"?: string | null,"updated_at"?: string,"user_name"?: string | null
                  }
                  Update: {
                    "assigned_to"?: string | null,"business_category"?: string | null,"chat_id"?: string | null,"company"?: string | null,"created_at"?: string,"customer_type"?: string | null,"email"?: string | null,"id"?: string,"is_active"?: boolean,"label1"?: string | null,"label2"?: string | null,"label3"?: string | null,"last_activity"?: string | null,"lead_grade"?: string,"lead_status"?: string,"merged_at"?: string | null,"merged_by"?: string | null,"merged_into"?: string | null,"metadata"?: NonNullable<Json>,"name"?: string | null,"name_source"?: string | null,"named_at"?: string | null,"next_action"?: string | null,"next_action_at"?: string | null,"opt_out_scope"?: string | null,"opted_out_at"?: string | null,"phone"?: string | null,"priority"?: number,"profile_status"?: string | null,"qualification_score"?: number,"tags"?: (string)[],"tenant_id"?: string,"thread_id"?: string | null,"thread_token_count"?: number,"timezone"?: string | null,"updated_at"?: string,"user_name"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "customer_leads_assigned_to_fkey"
      columns: ["tenant_id","assigned_to"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "customer_leads_merged_by_fkey"
      columns: ["tenant_id","merged_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "customer_leads_merged_into_fkey"
      columns: ["tenant_id","merged_into"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "customer_leads_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    },{
      foreignKeyName: "customer_leads_thread_id_fkey"
      columns: ["tenant_id","thread_id"]
isOneToOne: false
      referencedRelation: "ai_threads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"daily_actions": {
                  Row: {
                    "attempts": number,"chat_id": string | null,"claim": string | null,"day": string,"due_at": string,"ended_at": string | null,"lead_id": string,"lease_until": string | null,"message_id": string | null,"next_action": string | null,"reason": string | null,"rescheduled_to": string | null,"status": string,"tenant_id": string,"text": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "attempts"?: number,"chat_id"?: string | null,"claim"?: string | null,"day": string,"due_at": string,"ended_at"?: string | null,"lead_id": string,"lease_until"?: string | null,"message_id"?: string | null,"next_action"?: string | null,"reason"?: string | null,"rescheduled_to"?: string | null,"status"?: string,"tenant_id": string,"text"?: string | null
                  }
                  Update: {
                    "attempts"?: number,"chat_id"?: string | null,"claim"?: string | null,"day"?: string,"due_at"?: string,"ended_at"?: string | null,"lead_id"?: string,"lease_until"?: string | null,"message_id"?: string | null,"next_action"?: string | null,"reason"?: string | null,"rescheduled_to"?: string | null,"status"?: string,"tenant_id"?: string,"text"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "daily_actions_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "daily_actions_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "daily_actions_message_id_fkey"
      columns: ["tenant_id","message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"daily_runs": {
                  Row: {
                    "day": string,"planned_at": string,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "day": string,"planned_at": string,"tenant_id": string
                  }
                  Update: {
                    "day"?: string,"planned_at"?: string,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "daily_runs_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"delivery_issues": {
                  Row: {
                    "after_count": number,"after_hours": number,"cause": string,"chat_id": string,"confirmed_at": string | null,"first_at": string,"first_message_id": string | null,"id": string,"last_at": string,"last_message_id": string | null,"level": string,"message_count": number,"note": string | null,"opened_at": string,"probability": number,"resolved_at": string | null,"resolved_by": string | null,"resolved_how": string | null,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "after_count": number,"after_hours": number,"cause": string,"chat_id": string,"confirmed_at"?: string | null,"first_at": string,"first_message_id"?: string | null,"id"?: string,"last_at": string,"last_message_id"?: string | null,"level": string,"message_count": number,"note"?: string | null,"opened_at": string,"probability"?: never,"resolved_at"?: string | null,"resolved_by"?: string | null,"resolved_how"?: string | null,"tenant_id": string
                  }
                  Update: {
                    "after_count"?: number,"after_hours"?: number,"cause"?: string,"chat_id"?: string,"confirmed_at"?: string | null,"first_at"?: string,"first_message_id"?: string | null,"id"?: string,"last_at"?: string,"last_message_id"?: string | null,"level"?: string,"message_count"?: number,"note"?: string | null,"opened_at"?: string,"probability"?: never,"resolved_at"?: string | null,"resolved_by"?: string | null,"resolved_how"?: string | null,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "delivery_issues_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "delivery_issues_first_message_id_fkey"
      columns: ["tenant_id","first_message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "delivery_issues_last_message_id_fkey"
      columns: ["tenant_id","last_message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "delivery_issues_resolved_by_fkey"
      columns: ["tenant_id","resolved_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"early_events": {
                  Row: {
                    "body": NonNullable<Json>,"detail": string,"happened_at": string,"kind": string,"number_id": string,"target": string,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "body": NonNullable<Json>,"detail": string,"happened_at": string,"kind": string,"number_id": string,"target": string,"tenant_id": string
                  }
                  Update: {
                    "body"?: NonNullable<Json>,"detail"?: string,"happened_at"?: string,"kind"?: string,"number_id"?: string,"target"?: string,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "early_events_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "early_events_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"job_runs": {
                  Row: {
                    "counts": NonNullable<Json>,"error": string | null,"finished_at": string,"id": string,"job": string,"started_at": string,"tenant_id": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "counts"?: NonNullable<Json>,"error"?: string | null,"finished_at": string,"id"?: string,"job": string,"started_at": string,"tenant_id"?: string | null
                  }
                  Update: {
                    "counts"?: NonNullable<Json>,"error"?: string | null,"finished_at"?: string,"id"?: string,"job"?: string,"started_at"?: string,"tenant_id"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "job_runs_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"lead_edits": {
                  Row: {
                    "edited_at": string,"edited_by": string,"field": string,"id": string,"lead_id": string,"new_value": Json | null,"old_value": Json | null,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "edited_at": string,"edited_by": string,"field": string,"id"?: string,"lead_id": string,"new_value"?: Json | null,"old_value"?: Json | null,"tenant_id": string
                  }
                  Update: {
                    "edited_at"?: string,"edited_by"?: string,"field"?: string,"id"?: string,"lead_id"?: string,"new_value"?: Json | null,"old_value"?: Json | null,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "lead_edits_edited_by_fkey"
      columns: ["tenant_id","edited_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "lead_edits_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"lead_identities": {
                  Row: {
                    "kind": string,"lead_id": string,"scope": string,"tenant_id": string,"valid_from": string,"valid_to": string,"value": string
                  }
                  ComputedFields: never
                  Insert: {
                    "kind": string,"lead_id": string,"scope": string,"tenant_id": string,"valid_from": string,"valid_to"?: string,"value": string
                  }
                  Update: {
                    "kind"?: string,"lead_id"?: string,"scope"?: string,"tenant_id"?: string,"valid_from"?: string,"valid_to"?: string,"value"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "lead_identities_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"lead_merge_candidates": {
                  Row: {
                    "created_at": string,"evidence": NonNullable<Json>,"lead_id": string,"other_lead_id": string,"reason": string,"resolved_at": string | null,"resolved_by": string | null,"status": string,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "created_at"?: string,"evidence"?: NonNullable<Json>,"lead_id": string,"other_lead_id": string,"reason": string,"resolved_at"?: string | null,"resolved_by"?: string | null,"status"?: string,"tenant_id": string
                  }
                  Update: {
                    "created_at"?: string,"evidence"?: NonNullable<Json>,"lead_id"?: string,"other_lead_id"?: string,"reason"?: string,"resolved_at"?: string | null,"resolved_by"?: string | null,"status"?: string,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "lead_merge_candidates_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "lead_merge_candidates_other_lead_id_fkey"
      columns: ["tenant_id","other_lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "lead_merge_candidates_resolved_by_fkey"
      columns: ["tenant_id","resolved_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"media": {
                  Row: {
                    "created_at": string,"error": string | null,"expires_at": string | null,"filename": string | null,"id": string,"is_animated": boolean,"is_voice": boolean,"message_id": string,"mime": string | null,"provider_media_id": string | null,"sha256": string | null,"size": number | null,"status": string,"storage_path": string | null,"tenant_id": string,"updated_at": string,"url": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "created_at"?: string,"error"?: string | null,"expires_at"?: string | null,"filename"?: string | null,"id"?: string,"is_animated"?: boolean,"is_voice"?: boolean,"message_id": string,"mime"?: string | null,"provider_media_id"?: string | null,"sha256"?: string | null,"size"?: number | null,"status"?: string,"storage_path"?: string | null,"tenant_id": string,"updated_at"?: string,"url"?: string | null
                  }
                  Update: {
                    "created_at"?: string,"error"?: string | null,"expires_at"?: string | null,"filename"?: string | null,"id"?: string,"is_animated"?: boolean,"is_voice"?: boolean,"message_id"?: string,"mime"?: string | null,"provider_media_id"?: string | null,"sha256"?: string | null,"size"?: number | null,"status"?: string,"storage_path"?: string | null,"tenant_id"?: string,"updated_at"?: string,"url"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "media_message_id_fkey"
      columns: ["tenant_id","message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"message_stats_daily": {
                  Row: {
                    "canceled": number,"costs": NonNullable<Json>,"counted_at": string,"day": string,"delivered": number,"error_codes": NonNullable<Json>,"failed": number,"inbound": number,"last_inbound_at": string | null,"number_id": string,"outbound": number,"pending": number,"played": number,"price_classes": NonNullable<Json>,"read": number,"response_p50": number | null,"response_p90": number | null,"response_seconds": number,"responses": number,"sent": number,"skipped": number,"sources": NonNullable<Json>,"tenant_id": string,"timezone": string,"unknown": number
                  }
                  ComputedFields: never
                  Insert: {
                    "canceled": number,"costs": NonNullable<Json>,"counted_at": string,"day": string,"delivered": number,"error_codes": NonNullable<Json>,"failed": number,"inbound": number,"last_inbound_at"?: string | null,"number_id": string,"outbound": number,"pending": number,"played": number,"price_classes": NonNullable<Json>,"read": number,"response_p50"?: number | null,"response_p90"?: number | null,"response_seconds": number,"responses": number,"sent": number,"skipped": number,"sources": NonNullable<Json>,"tenant_id": string,"timezone": string,"unknown": number
                  }
                  Update: {
                    "canceled"?: number,"costs"?: NonNullable<Json>,"counted_at"?: string,"day"?: string,"delivered"?: number,"error_codes"?: NonNullable<Json>,"failed"?: number,"inbound"?: number,"last_inbound_at"?: string | null,"number_id"?: string,"outbound"?: number,"pending"?: number,"played"?: number,"price_classes"?: NonNullable<Json>,"read"?: number,"response_p50"?: number | null,"response_p90"?: number | null,"response_seconds"?: number,"responses"?: number,"sent"?: number,"skipped"?: number,"sources"?: NonNullable<Json>,"tenant_id"?: string,"timezone"?: string,"unknown"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "message_stats_daily_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "message_stats_daily_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"message_templates": {
                  Row: {
                    "category": string,"category_at": string,"components": NonNullable<Json>,"components_at": string,"correct_category": string | null,"created_at": string,"id": string,"language": string,"name": string,"parameter_format": string,"paused_until": string | null,"provider": string,"provider_template_id": string,"quality": string | null,"quality_at": string,"rejected_reason": string | null,"status": string,"status_at": string,"tenant_id": string,"updated_at": string,"waba_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "category": string,"category_at"?: string,"components"?: NonNullable<Json>,"components_at"?: string,"correct_category"?: string | null,"created_at"?: string,"id"?: string,"language": string,"name": string,"parameter_format"?: string,"paused_until"?: string | null,"provider"?: string,"provider_template_id": string,"quality"?: string | null,"quality_at"?: string,"rejected_reason"?: string | null,"status": string,"status_at"?: string,"tenant_id": string,"updated_at"?: string,"waba_id": string
                  }
                  Update: {
                    "category"?: string,"category_at"?: string,"components"?: NonNullable<Json>,"components_at"?: string,"correct_category"?: string | null,"created_at"?: string,"id"?: string,"language"?: string,"name"?: string,"parameter_format"?: string,"paused_until"?: string | null,"provider"?: string,"provider_template_id"?: string,"quality"?: string | null,"quality_at"?: string,"rejected_reason"?: string | null,"status"?: string,"status_at"?: string,"tenant_id"?: string,"updated_at"?: string,"waba_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "message_templates_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"messages": {
                  Row: {
                    "actual_cost": number | null,"agent_id": string | null,"author_id": string | null,"awaits_delivery": boolean,"chat_id": string,"consented_cost": number | null,"content": string | null,"conversation_id": string | null,"created_at": string,"currency": string | null,"data": Json | null,"delivered_at": string | null,"direction": string,"edited_at": string | null,"error_code": number | null,"error_message": string | null,"estimated_cost": number | null,"failed_at": string | null,"forced_by": string | null,"forced_reason": string | null,"id": string,"idempotency_key": string | null,"is_forwarded": boolean,"is_named": boolean,"lead_id": string,"number_id": string,"played_at": string | null,"previous": Json | null,"price_class": string | null,"pricing": Json | null,"provider_at": string,"raw": Json | null,"reactions": Json | null,"read_at": string | null,"referral": Json | null,"reply_to": string | null,"request_hash": string | null,"revoked_at": string | null,"role": string,"scheduled_at": string | null,"send_reason": string | null,"send_verdict": string | null,"sent_at": string | null,"source": string,"status": string,"template_id": string | null,"tenant_id": string,"type": string,"wa_message_id": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "actual_cost"?: number | null,"agent_id"?: string | null,"author_id"?: string | null,"awaits_delivery"?: never,"chat_id": string,"consented_cost"?: number | null,"content"?: string | null,"conversation_id"?: string | null,"created_at"?: string,"currency"?: string | null,"data"?: Json | null,"delivered_at"?: string | null,"direction": string,"edited_at"?: string | null,"error_code"?: number | null,"error_message"?: string | null,"estimated_cost"?: number | null,"failed_at"?: string | null,"forced_by"?: string | null,"forced_reason"?: string | null,"id"?: string,"idempotency_key"?: string | null,"is_forwarded"?: boolean,"is_named"?: boolean,"lead_id": string,"number_id": string,"played_at"?: string | null,"previous"?: Json | null,"price_class"?: string | null,"pricing"?: Json | null,"provider_at": string,"raw"?: Json | null,"reactions"?: Json | null,"read_at"?: string | null,"referral"?: Json | null,"reply_to"?: string | null,"request_hash"?: string | null,"revoked_at"?: string | null,"role": string,"scheduled_at"?: string | null,"send_reason"?: string | null,"send_verdict"?: string | null,"sent_at"?: string | null,"source": string,"status": string,"template_id"?: string | null,"tenant_id": string,"type": string,"wa_message_id"?: string | null
                  }
                  Update: {
                    "actual_cost"?: number | null,"agent_id"?: string | null,"author_id"?: string | null,"awaits_delivery"?: never,"chat_id"?: string,"consented_cost"?: number | null,"content"?: string | null,"conversation_id"?: string | null,"created_at"?: string,"currency"?: string | null,"data"?: Json | null,"delivered_at"?: string | null,"direction"?: string,"edited_at"?: string | null,"error_code"?: number | null,"error_message"?: string | null,"estimated_cost"?: number | null,"failed_at"?: string | null,"forced_by"?: string | null,"forced_reason"?: string | null,"id"?: string,"idempotency_key"?: string | null,"is_forwarded"?: boolean,"is_named"?: boolean,"lead_id"?: string,"number_id"?: string,"played_at"?: string | null,"previous"?: Json | null,"price_class"?: string | null,"pricing"?: Json | null,"provider_at"?: string,"raw"?: Json | null,"reactions"?: Json | null,"read_at"?: string | null,"referral"?: Json | null,"reply_to"?: string | null,"request_hash"?: string | null,"revoked_at"?: string | null,"role"?: string,"scheduled_at"?: string | null,"send_reason"?: string | null,"send_verdict"?: string | null,"sent_at"?: string | null,"source"?: string,"status"?: string,"template_id"?: string | null,"tenant_id"?: string,"type"?: string,"wa_message_id"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "messages_agent_id_fkey"
      columns: ["tenant_id","agent_id"]
isOneToOne: false
      referencedRelation: "ai_agents"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "messages_author_id_fkey"
      columns: ["tenant_id","author_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "messages_chat_id_fkey"
      columns: ["tenant_id","lead_id","chat_id","number_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","lead_id","id","number_id"]
    },{
      foreignKeyName: "messages_conversation_id_fkey"
      columns: ["tenant_id","conversation_id"]
isOneToOne: false
      referencedRelation: "conversations"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "messages_forced_by_fkey"
      columns: ["tenant_id","forced_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "messages_template_id_fkey"
      columns: ["tenant_id","template_id"]
isOneToOne: false
      referencedRelation: "message_templates"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"monthly_sends": {
                  Row: {
                    "month": string,"number_id": string,"sent": number,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "month": string,"number_id": string,"sent": number,"tenant_id": string
                  }
                  Update: {
                    "month"?: string,"number_id"?: string,"sent"?: number,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "monthly_sends_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "monthly_sends_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"number_pacing": {
                  Row: {
                    "bulk_pause_reason": string | null,"bulk_paused_until": string | null,"bulk_slot_at": string,"holder": string | null,"next_slot_at": string,"number_id": string,"pause_reason": string | null,"paused_until": string | null,"reserve_slot_at": string,"service_count": number,"service_month": string | null,"slow_level": number,"slowed_at": string | null,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "bulk_pause_reason"?: string | null,"bulk_paused_until"?: string | null,"bulk_slot_at"?: string,"holder"?: string | null,"next_slot_at"?: string,"number_id": string,"pause_reason"?: string | null,"paused_until"?: string | null,"reserve_slot_at"?: string,"service_count"?: number,"service_month"?: string | null,"slow_level"?: number,"slowed_at"?: string | null,"tenant_id": string
                  }
                  Update: {
                    "bulk_pause_reason"?: string | null,"bulk_paused_until"?: string | null,"bulk_slot_at"?: string,"holder"?: string | null,"next_slot_at"?: string,"number_id"?: string,"pause_reason"?: string | null,"paused_until"?: string | null,"reserve_slot_at"?: string,"service_count"?: number,"service_month"?: string | null,"slow_level"?: number,"slowed_at"?: string | null,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "number_pacing_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: true
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "number_pacing_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: true
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"outbox": {
                  Row: {
                    "alerted_at": string | null,"attempts": number,"chat_id": string,"claim": string | null,"created_at": string,"due_at": string,"lease_until": string | null,"message_id": string,"not_before": string | null,"number_id": string,"position": number,"priority": number,"purpose": string,"state": string,"tenant_id": string,"unknown_at": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "alerted_at"?: string | null,"attempts"?: number,"chat_id": string,"claim"?: string | null,"created_at"?: string,"due_at": string,"lease_until"?: string | null,"message_id": string,"not_before"?: string | null,"number_id": string,"position"?: never,"priority": number,"purpose": string,"state"?: string,"tenant_id": string,"unknown_at"?: string | null
                  }
                  Update: {
                    "alerted_at"?: string | null,"attempts"?: number,"chat_id"?: string,"claim"?: string | null,"created_at"?: string,"due_at"?: string,"lease_until"?: string | null,"message_id"?: string,"not_before"?: string | null,"number_id"?: string,"position"?: never,"priority"?: number,"purpose"?: string,"state"?: string,"tenant_id"?: string,"unknown_at"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "outbox_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "outbox_message_id_fkey"
      columns: ["tenant_id","message_id"]
isOneToOne: true
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "outbox_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "outbox_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"outreaches": {
                  Row: {
                    "last_at": string,"lead_id": string,"portfolio": string,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "last_at": string,"lead_id": string,"portfolio": string,"tenant_id": string
                  }
                  Update: {
                    "last_at"?: string,"lead_id"?: string,"portfolio"?: string,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "outreaches_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: false
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"pending_activity": {
                  Row: {
                    "last_activity_at": string,"lead_id": string,"tenant_id": string,"thread_id": string | null,"token_count": number
                  }
                  ComputedFields: never
                  Insert: {
                    "last_activity_at": string,"lead_id": string,"tenant_id": string,"thread_id"?: string | null,"token_count"?: number
                  }
                  Update: {
                    "last_activity_at"?: string,"lead_id"?: string,"tenant_id"?: string,"thread_id"?: string | null,"token_count"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "pending_activity_lead_id_fkey"
      columns: ["tenant_id","lead_id"]
isOneToOne: true
      referencedRelation: "customer_leads"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "pending_activity_thread_id_fkey"
      columns: ["tenant_id","thread_id"]
isOneToOne: false
      referencedRelation: "ai_threads"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"pending_analyses": {
                  Row: {
                    "attempts": number,"chat_id": string,"claim": string | null,"lease_until": string,"tenant_id": string,"until_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "attempts"?: number,"chat_id": string,"claim"?: string | null,"lease_until": string,"tenant_id": string,"until_at": string
                  }
                  Update: {
                    "attempts"?: number,"chat_id"?: string,"claim"?: string | null,"lease_until"?: string,"tenant_id"?: string,"until_at"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "pending_analyses_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: true
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"pending_manual": {
                  Row: {
                    "added_at": string,"chat_id": string,"done_at": string | null,"done_by": string | null,"id": string,"message_id": string | null,"priority": number,"reason": string,"sent_manually": boolean,"source": string,"status": string,"tenant_id": string,"text": string
                  }
                  ComputedFields: never
                  Insert: {
                    "added_at": string,"chat_id": string,"done_at"?: string | null,"done_by"?: string | null,"id"?: string,"message_id"?: string | null,"priority"?: number,"reason": string,"sent_manually"?: boolean,"source": string,"status"?: string,"tenant_id": string,"text": string
                  }
                  Update: {
                    "added_at"?: string,"chat_id"?: string,"done_at"?: string | null,"done_by"?: string | null,"id"?: string,"message_id"?: string | null,"priority"?: number,"reason"?: string,"sent_manually"?: boolean,"source"?: string,"status"?: string,"tenant_id"?: string,"text"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "pending_manual_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "pending_manual_done_by_fkey"
      columns: ["tenant_id","done_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "pending_manual_message_id_fkey"
      columns: ["tenant_id","message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"pending_replies": {
                  Row: {
                    "attempts": number,"chat_id": string,"claim": string | null,"claimed_fragments": number | null,"due_at": string,"due_by": string,"first_at": string,"fragments": number,"last_at": string,"last_error": string | null,"lease_until": string | null,"number_id": string,"redo_count": number,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "attempts"?: number,"chat_id": string,"claim"?: string | null,"claimed_fragments"?: number | null,"due_at": string,"due_by": string,"first_at": string,"fragments": number,"last_at": string,"last_error"?: string | null,"lease_until"?: string | null,"number_id": string,"redo_count"?: number,"tenant_id": string
                  }
                  Update: {
                    "attempts"?: number,"chat_id"?: string,"claim"?: string | null,"claimed_fragments"?: number | null,"due_at"?: string,"due_by"?: string,"first_at"?: string,"fragments"?: number,"last_at"?: string,"last_error"?: string | null,"lease_until"?: string | null,"number_id"?: string,"redo_count"?: number,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "pending_replies_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: true
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "pending_replies_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "pending_replies_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"plans": {
                  Row: {
                    "max_agents": number | null,"max_messages_per_month": number | null,"max_whatsapp_numbers": number,"name": string
                  }
                  ComputedFields: never
                  Insert: {
                    "max_agents"?: number | null,"max_messages_per_month"?: number | null,"max_whatsapp_numbers": number,"name": string
                  }
                  Update: {
                    "max_agents"?: number | null,"max_messages_per_month"?: number | null,"max_whatsapp_numbers"?: number,"name"?: string
                  }
                  Relationships: [

                  ]
                },"rate_cards": {
                  Row: {
                    "amount": number,"category": string,"currency": string,"is_verified": boolean,"market": string,"phone_prefix": string,"source": string,"valid_from": string
                  }
                  ComputedFields: never
                  Insert: {
                    "amount": number,"category": string,"currency": string,"is_verified"?: boolean,"market": string,"phone_prefix": string,"source": string,"valid_from": string
                  }
                  Update: {
                    "amount"?: number,"category"?: string,"currency"?: string,"is_verified"?: boolean,"market"?: string,"phone_prefix"?: string,"source"?: string,"valid_from"?: string
                  }
                  Relationships: [

                  ]
                },"restore_points": {
                  Row: {
                    "day": string | null,"document": NonNullable<Json>,"id": string,"reason": string,"taken_at": string,"taken_by": string | null,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "day"?: string | null,"document": NonNullable<Json>,"id"?: string,"reason": string,"taken_at": string,"taken_by"?: string | null,"tenant_id": string
                  }
                  Update: {
                    "day"?: string | null,"document"?: NonNullable<Json>,"id"?: string,"reason"?: string,"taken_at"?: string,"taken_by"?: string | null,"tenant_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "restore_points_taken_by_fkey"
      columns: ["tenant_id","taken_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "restore_points_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"sequence_enrollments": {
                  Row: {
                    "changed_at": string,"chat_id": string,"enrolled_at": string,"enrolled_by": string | null,"id": string,"last_message_id": string | null,"last_step_at": string | null,"next_run_at": string,"position": number,"reason": string | null,"replied_at": string | null,"sequence_id": string,"source": string,"status": string,"tenant_id": string,"version": number,"waits_for": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "changed_at": string,"chat_id": string,"enrolled_at": string,"enrolled_by"?: string | null,"id"?: string,"last_message_id"?: string | null,"last_step_at"?: string | null,"next_run_at": string,"position"?: number,"reason"?: string | null,"replied_at"?: string | null,"sequence_id": string,"source": string,"status"?: string,"tenant_id": string,"version": number,"waits_for"?: string | null
                  }
                  Update: {
                    "changed_at"?: string,"chat_id"?: string,"enrolled_at"?: string,"enrolled_by"?: string | null,"id"?: string,"last_message_id"?: string | null,"last_step_at"?: string | null,"next_run_at"?: string,"position"?: number,"reason"?: string | null,"replied_at"?: string | null,"sequence_id"?: string,"source"?: string,"status"?: string,"tenant_id"?: string,"version"?: number,"waits_for"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "sequence_enrollments_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: false
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_enrollments_enrolled_by_fkey"
      columns: ["tenant_id","enrolled_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_enrollments_version_fkey"
      columns: ["tenant_id","sequence_id","version"]
isOneToOne: false
      referencedRelation: "sequence_versions"
      referencedColumns: ["tenant_id","sequence_id","version"]
    }
                  ]
                },"sequence_history": {
                  Row: {
                    "at": string,"enrollment_id": string,"message_id": string | null,"outcome": string,"pending_manual_id": string | null,"planned_at": string,"position": number,"reason": string | null,"sequence_id": string,"step_key": string,"tenant_id": string,"version": number
                  }
                  ComputedFields: never
                  Insert: {
                    "at": string,"enrollment_id": string,"message_id"?: string | null,"outcome": string,"pending_manual_id"?: string | null,"planned_at": string,"position": number,"reason"?: string | null,"sequence_id": string,"step_key": string,"tenant_id": string,"version": number
                  }
                  Update: {
                    "at"?: string,"enrollment_id"?: string,"message_id"?: string | null,"outcome"?: string,"pending_manual_id"?: string | null,"planned_at"?: string,"position"?: number,"reason"?: string | null,"sequence_id"?: string,"step_key"?: string,"tenant_id"?: string,"version"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "sequence_history_enrollment_id_fkey"
      columns: ["tenant_id","enrollment_id"]
isOneToOne: false
      referencedRelation: "sequence_enrollments"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_history_message_id_fkey"
      columns: ["tenant_id","message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_history_pending_manual_id_fkey"
      columns: ["tenant_id","pending_manual_id"]
isOneToOne: false
      referencedRelation: "pending_manual"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"sequence_steps": {
                  Row: {
                    "delay_minutes": number,"key": string,"local_time": string | null,"media": Json | null,"on_window_closed": string,"order_position": number,"parameters": Json | null,"sequence_id": string,"template_id": string | null,"tenant_id": string,"text": string | null,"type": string,"version": number,"window_margin_minutes": number | null
                  }
                  ComputedFields: never
                  Insert: {
                    "delay_minutes"?: number,"key": string,"local_time"?: string | null,"media"?: Json | null,"on_window_closed"?: string,"order_position": number,"parameters"?: Json | null,"sequence_id": string,"template_id"?: string | null,"tenant_id": string,"text"?: string | null,"type": string,"version": number,"window_margin_minutes"?: number | null
                  }
                  Update: {
                    "delay_minutes"?: number,"key"?: string,"local_time"?: string | null,"media"?: Json | null,"on_window_closed"?: string,"order_position"?: number,"parameters"?: Json | null,"sequence_id"?: string,"template_id"?: string | null,"tenant_id"?: string,"text"?: string | null,"type"?: string,"version"?: number,"window_margin_minutes"?: number | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "sequence_steps_template_id_fkey"
      columns: ["tenant_id","template_id"]
isOneToOne: false
      referencedRelation: "message_templates"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_steps_version_fkey"
      columns: ["tenant_id","sequence_id","version"]
isOneToOne: false
      referencedRelation: "sequence_versions"
      referencedColumns: ["tenant_id","sequence_id","version"]
    }
                  ]
                },"sequence_triggers": {
                  Row: {
                    "kind": string,"sequence_id": string,"tenant_id": string,"value": string
                  }
                  ComputedFields: never
                  Insert: {
                    "kind": string,"sequence_id": string,"tenant_id": string,"value"?: string
                  }
                  Update: {
                    "kind"?: string,"sequence_id"?: string,"tenant_id"?: string,"value"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "sequence_triggers_sequence_id_fkey"
      columns: ["tenant_id","sequence_id"]
isOneToOne: false
      referencedRelation: "sequence_stats"
      referencedColumns: ["tenant_id","sequence_id"]
    },{
      foreignKeyName: "sequence_triggers_sequence_id_fkey"
      columns: ["tenant_id","sequence_id"]
isOneToOne: false
      referencedRelation: "sequences"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"sequence_versions": {
                  Row: {
                    "published_at": string,"published_by": string | null,"sequence_id": string,"tenant_id": string,"version": number
                  }
                  ComputedFields: never
                  Insert: {
                    "published_at"?: string,"published_by"?: string | null,"sequence_id": string,"tenant_id": string,"version": number
                  }
                  Update: {
                    "published_at"?: string,"published_by"?: string | null,"sequence_id"?: string,"tenant_id"?: string,"version"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "sequence_versions_published_by_fkey"
      columns: ["tenant_id","published_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_versions_sequence_id_fkey"
      columns: ["tenant_id","sequence_id"]
isOneToOne: false
      referencedRelation: "sequence_stats"
      referencedColumns: ["tenant_id","sequence_id"]
    },{
      foreignKeyName: "sequence_versions_sequence_id_fkey"
      columns: ["tenant_id","sequence_id"]
isOneToOne: false
      referencedRelation: "sequences"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"sequences": {
                  Row: {
                    "after_reply": string,"created_at": string,"deleted_at": string | null,"description": string | null,"goal": string | null,"goal_outcomes": (string)[],"goal_statuses": (string)[],"goal_tags": (string)[],"id": string,"is_active": boolean,"name": string,"priority": number,"resume_after_hours": number | null,"stop_outcomes": (string)[],"stop_statuses": (string)[],"stop_tags": (string)[],"tenant_id": string,"updated_at": string,"version": number
                  }
                  ComputedFields: never
                  Insert: {
                    "after_reply"?: string,"created_at"?: string,"deleted_at"?: string | null,"description"?: string | null,"goal"?: string | null,"goal_outcomes"?: (string)[],"goal_statuses"?: (string)[],"goal_tags"?: (string)[],"id"?: string,"is_active"?: boolean,"name": string,"priority"?: number,"resume_after_hours"?: number | null,"stop_outcomes"?: (string)[],"stop_statuses"?: (string)[],"stop_tags"?: (string)[],"tenant_id": string,"updated_at"?: string,"version"?: number
                  }
                  Update: {
                    "after_reply"?: string,"created_at"?: string,"deleted_at"?: string | null,"description"?: string | null,"goal"?: string | null,"goal_outcomes"?: (string)[],"goal_statuses"?: (string)[],"goal_tags"?: (string)[],"id"?: string,"is_active"?: boolean,"name"?: string,"priority"?: number,"resume_after_hours"?: number | null,"stop_outcomes"?: (string)[],"stop_statuses"?: (string)[],"stop_tags"?: (string)[],"tenant_id"?: string,"updated_at"?: string,"version"?: number
                  }
                  Relationships: [
                    {
      foreignKeyName: "sequences_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"template_listings": {
                  Row: {
                    "listed_at": string,"tenant_id": string,"waba_id": string
                  }
                  ComputedFields: never
                  Insert: {
                    "listed_at": string,"tenant_id": string,"waba_id": string
                  }
                  Update: {
                    "listed_at"?: string,"tenant_id"?: string,"waba_id"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "template_listings_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"tenant_settings": {
                  Row: {
                    "activity_delay_seconds": number,"ai_daily_cost_budget": number | null,"ai_daily_token_budget": number | null,"audit_retention_days": number | null,"block_after_hours": number,"block_confirmed_count": number,"block_probable_count": number,"business_name": string,"closed_hours_message": string | null,"conversation_idle_hours": number,"created_at": string,"crm_analysis_idle_minutes": number,"crm_model": string,"crm_person_keeps": string,"crm_pipeline": NonNullable<Json>,"crm_statuses": NonNullable<Json>,"currency": string,"daily_actions_at": string,"enrichment_interval_hours": number,"followup_agent_id": string | null,"followup_template_id": string | null,"human_takeover_minutes": number,"opt_in_keywords": (string)[],"opt_out_confirmation": string | null,"opt_out_keywords": (string)[],"quiet_hours": Json | null,"restore_days": number,"shows_typing": boolean,"silence_alert_deliveries": number | null,"tenant_id": string,"thread_max_age_days": number,"thread_max_input_tokens": number,"updated_at": string,"webhook_log_retention_days": number | null
                  }
                  ComputedFields: never
                  Insert: {
                    "activity_delay_seconds"?: number,"ai_daily_cost_budget"?: number | null,"ai_daily_token_budget"?: number | null,"audit_retention_days"?: number | null,"block_after_hours"?: number,"block_confirmed_count"?: number,"block_probable_count"?: number,"business_name": string,"closed_hours_message"?: string | null,"conversation_idle_hours"?: number,"created_at"?: string,"crm_analysis_idle_minutes"?: number,"crm_model"?: string,"crm_person_keeps"?: string,"crm_pipeline"?: NonNullable<Json>,"crm_statuses"?: NonNullable<Json>,"currency"?: string,"daily_actions_at"?: string,"enrichment_interval_hours"?: number,"followup_agent_id"?: string | null,"followup_template_id"?: string | null,"human_takeover_minutes"?: number,"opt_in_keywords"?: (string)[],"opt_out_confirmation"?: string | null,"opt_out_keywords"?: (string)[],"quiet_hours"?: Json | null,"restore_days"?: number,"shows_typing"?: boolean,"silence_alert_deliveries"?: number | null,"tenant_id": string,"thread_max_age_days"?: number,"thread_max_input_tokens"?: number,"updated_at"?: string,"webhook_log_retention_days"?: number | null
                  }
                  Update: {
                    "activity_delay_seconds"?: number,"ai_daily_cost_budget"?: number | null,"ai_daily_token_budget"?: number | null,"audit_retention_days"?: number | null,"block_after_hours"?: number,"block_confirmed_count"?: number,"block_probable_count"?: number,"business_name"?: string,"closed_hours_message"?: string | null,"conversation_idle_hours"?: number,"created_at"?: string,"crm_analysis_idle_minutes"?: number,"crm_model"?: string,"crm_person_keeps"?: string,"crm_pipeline"?: NonNullable<Json>,"crm_statuses"?: NonNullable<Json>,"currency"?: string,"daily_actions_at"?: string,"enrichment_interval_hours"?: number,"followup_agent_id"?: string | null,"followup_template_id"?: string | null,"human_takeover_minutes"?: number,"opt_in_keywords"?: (string)[],"opt_out_confirmation"?: string | null,"opt_out_keywords"?: (string)[],"quiet_hours"?: Json | null,"restore_days"?: number,"shows_typing"?: boolean,"silence_alert_deliveries"?: number | null,"tenant_id"?: string,"thread_max_age_days"?: number,"thread_max_input_tokens"?: number,"updated_at"?: string,"webhook_log_retention_days"?: number | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "tenant_settings_followup_agent_id_fkey"
      columns: ["tenant_id","followup_agent_id"]
isOneToOne: false
      referencedRelation: "ai_agents"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "tenant_settings_followup_template_id_fkey"
      columns: ["tenant_id","followup_template_id"]
isOneToOne: false
      referencedRelation: "message_templates"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "tenant_settings_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: true
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"unreachable_chats": {
                  Row: {
                    "chat_id": string,"failures": number,"first_failed_at": string,"last_error_code": number | null,"last_failed_at": string,"note": string | null,"restored_at": string | null,"restored_by": string | null,"restored_how": string | null,"tenant_id": string,"unreachable_at": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "chat_id": string,"failures": number,"first_failed_at": string,"last_error_code"?: number | null,"last_failed_at": string,"note"?: string | null,"restored_at"?: string | null,"restored_by"?: string | null,"restored_how"?: string | null,"tenant_id": string,"unreachable_at"?: string | null
                  }
                  Update: {
                    "chat_id"?: string,"failures"?: number,"first_failed_at"?: string,"last_error_code"?: number | null,"last_failed_at"?: string,"note"?: string | null,"restored_at"?: string | null,"restored_by"?: string | null,"restored_how"?: string | null,"tenant_id"?: string,"unreachable_at"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "unreachable_chats_chat_id_fkey"
      columns: ["tenant_id","chat_id"]
isOneToOne: true
      referencedRelation: "chats"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "unreachable_chats_restored_by_fkey"
      columns: ["tenant_id","restored_by"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"users": {
                  Row: {
                    "auth_id": string | null,"created_at": string,"crm_enabled": boolean,"crm_plan": string | null,"email": string,"id": string,"is_active": boolean,"locale": string,"max_agents": number | null,"max_messages_per_month": number | null,"max_whatsapp_numbers": number | null,"name": string | null,"role": string,"tenant_id": string,"timezone": string,"updated_at": string
                  }
                  ComputedFields: never
                  Insert: {
                    "auth_id"?: string | null,"created_at"?: string,"crm_enabled"?: boolean,"crm_plan"?: string | null,"email": string,"id"?: string,"is_active"?: boolean,"locale"?: string,"max_agents"?: number | null,"max_messages_per_month"?: number | null,"max_whatsapp_numbers"?: number | null,"name"?: string | null,"role": string,"tenant_id": string,"timezone"?: string,"updated_at"?: string
                  }
                  Update: {
                    "auth_id"?: string | null,"created_at"?: string,"crm_enabled"?: boolean,"crm_plan"?: string | null,"email"?: string,"id"?: string,"is_active"?: boolean,"locale"?: string,"max_agents"?: number | null,"max_messages_per_month"?: number | null,"max_whatsapp_numbers"?: number | null,"name"?: string | null,"role"?: string,"tenant_id"?: string,"timezone"?: string,"updated_at"?: string
                  }
                  Relationships: [
                    {
      foreignKeyName: "users_crm_plan_fkey"
      columns: ["crm_plan"]
isOneToOne: false
      referencedRelation: "plans"
      referencedColumns: ["name"]
    },{
      foreignKeyName: "users_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"webhook_logs": {
                  Row: {
                    "account": string | null,"applied_at": string | null,"attempts": number,"delivery_id": string,"error": string | null,"events": Json | null,"field": string | null,"id": string,"is_unmodelled": boolean,"next_attempt_at": string | null,"number": string | null,"payload": Json | null,"provider": string,"raw": string | null,"received_at": string,"status": string,"taken_at": string,"tenant_id": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "account"?: string | null,"applied_at"?: string | null,"attempts"?: number,"delivery_id": string,"error"?: string | null,"events"?: Json | null,"field"?: string | null,"id"?: string,"is_unmodelled"?: boolean,"next_attempt_at"?: string | null,"number"?: string | null,"payload"?: Json | null,"provider": string,"raw"?: string | null,"received_at": string,"status": string,"taken_at"?: string,"tenant_id"?: string | null
                  }
                  Update: {
                    "account"?: string | null,"applied_at"?: string | null,"attempts"?: number,"delivery_id"?: string,"error"?: string | null,"events"?: Json | null,"field"?: string | null,"id"?: string,"is_unmodelled"?: boolean,"next_attempt_at"?: string | null,"number"?: string | null,"payload"?: Json | null,"provider"?: string,"raw"?: string | null,"received_at"?: string,"status"?: string,"taken_at"?: string,"tenant_id"?: string | null
                  }
                  Relationships: [

                  ]
                },"whatsapp_numbers": {
                  Row: {
                    "account_id": string | null,"app_synced_at": string | null,"auto_reply": boolean,"business_hours": Json | null,"connected_at": string | null,"created_at": string,"default_agent_id": string | null,"display_name": string,"id": string,"is_active": boolean,"is_coexistence": boolean,"is_primary": boolean,"messaging_limit": number | null,"phone_number": string,"portfolio_id": string | null,"provider": string,"provider_number_id": string,"quality_rating": string | null,"rate_per_second": number,"tenant_id": string,"timezone": string,"updated_at": string,"username": string | null,"waba_id": string | null,"webhook_url": string | null
                  }
                  ComputedFields: never
                  Insert: {
                    "account_id"?: string | null,"app_synced_at"?: string | null,"auto_reply"?: boolean,"business_hours"?: Json | null,"connected_at"?: string | null,"created_at"?: string,"default_agent_id"?: string | null,"display_name": string,"id"?: string,"is_active"?: boolean,"is_coexistence"?: boolean,"is_primary"?: boolean,"messaging_limit"?: number | null,"phone_number": string,"portfolio_id"?: string | null,"provider": string,"provider_number_id": string,"quality_rating"?: string | null,"rate_per_second"?: number,"tenant_id": string,"timezone"?: string,"updated_at"?: string,"username"?: string | null,"waba_id"?: string | null,"webhook_url"?: string | null
                  }
                  Update: {
                    "account_id"?: string | null,"app_synced_at"?: string | null,"auto_reply"?: boolean,"business_hours"?: Json | null,"connected_at"?: string | null,"created_at"?: string,"default_agent_id"?: string | null,"display_name"?: string,"id"?: string,"is_active"?: boolean,"is_coexistence"?: boolean,"is_primary"?: boolean,"messaging_limit"?: number | null,"phone_number"?: string,"portfolio_id"?: string | null,"provider"?: string,"provider_number_id"?: string,"quality_rating"?: string | null,"rate_per_second"?: number,"tenant_id"?: string,"timezone"?: string,"updated_at"?: string,"username"?: string | null,"waba_id"?: string | null,"webhook_url"?: string | null
                  }
                  Relationships: [
                    {
      foreignKeyName: "whatsapp_numbers_default_agent_id_fkey"
      columns: ["tenant_id","default_agent_id"]
isOneToOne: false
      referencedRelation: "ai_agents"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "whatsapp_numbers_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                }
          }
          Views: {
            "ai_usage_daily": {
                  Row: {
                    "cached_tokens": number | null,"cost": number | null,"currency": string | null,"day": string | null,"input_tokens": number | null,"latency_ms_p50": number | null,"model": string,"output_tokens": number | null,"purpose": string,"runs": number | null,"tenant_id": string,"total_tokens": number | null
                  }
                  ComputedFields: never
                  Insert: {
                           "cached_tokens"?: number | null,"cost"?: number | null,"currency"?: string | null,"day"?: string | null,"input_tokens"?: number | null,"latency_ms_p50"?: number | null,"model"?: string | null,"output_tokens"?: number | null,"purpose"?: string | null,"runs"?: number | null,"tenant_id"?: string | null,"total_tokens"?: number | null
                         }
                        Update: {
                           "cached_tokens"?: number | null,"cost"?: number | null,"currency"?: string | null,"day"?: string | null,"input_tokens"?: number | null,"latency_ms_p50"?: number | null,"model"?: string | null,"output_tokens"?: number | null,"purpose"?: string | null,"runs"?: number | null,"tenant_id"?: string | null,"total_tokens"?: number | null
                         }
                        Relationships: [
                    {
      foreignKeyName: "ai_usage_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"block_detection_quality": {
                  Row: {
                    "after_count": number,"after_hours": number,"cause": string,"disproved": number | null,"disproved_by_customer": number | null,"disproved_by_delivery": number | null,"disproved_rate": number | null,"level": string,"marked": number | null,"number_id": string,"open": number | null,"reactivated": number | null,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                           "after_count"?: number | null,"after_hours"?: number | null,"cause"?: string | null,"disproved"?: number | null,"disproved_by_customer"?: number | null,"disproved_by_delivery"?: number | null,"disproved_rate"?: number | null,"level"?: string | null,"marked"?: number | null,"number_id"?: string | null,"open"?: number | null,"reactivated"?: number | null,"tenant_id"?: string | null
                         }
                        Update: {
                           "after_count"?: number | null,"after_hours"?: number | null,"cause"?: string | null,"disproved"?: number | null,"disproved_by_customer"?: number | null,"disproved_by_delivery"?: number | null,"disproved_rate"?: number | null,"level"?: string | null,"marked"?: number | null,"number_id"?: string | null,"open"?: number | null,"reactivated"?: number | null,"tenant_id"?: string | null
                         }
                        Relationships: [

                  ]
                },"client_view": {
                  Row: {
                    "chat_id": string | null,"fecha_proxima_accion": string | null,"label1": string | null,"label2": string | null,"label3": string | null,"last_activity": string | null,"name": string | null,"phone_number": string | null,"prioridad": number,"profile_status": string | null,"proxima_accion": string | null,"thread_id": string | null,"thread_token_count": number,"user_name": string | null
                  }
                  ComputedFields: never
                  Insert: {
                           "chat_id"?: string | null,"fecha_proxima_accion"?: string | null,"label1"?: string | null,"label2"?: string | null,"label3"?: string | null,"last_activity"?: string | null,"name"?: string | null,"phone_number"?: string | null,"prioridad"?: number | null,"profile_status"?: string | null,"proxima_accion"?: string | null,"thread_id"?: string | null,"thread_token_count"?: number | null,"user_name"?: string | null
                         }
                        Update: {
                           "chat_id"?: string | null,"fecha_proxima_accion"?: string | null,"label1"?: string | null,"label2"?: string | null,"label3"?: string | null,"last_activity"?: string | null,"name"?: string | null,"phone_number"?: string | null,"prioridad"?: number | null,"profile_status"?: string | null,"proxima_accion"?: string | null,"thread_id"?: string | null,"thread_token_count"?: number | null,"user_name"?: string | null
                         }
                        Relationships: [

                  ]
                },"costs_monthly": {
                  Row: {
                    "actual": number | null,"category": string,"currency": string,"delivered": number | null,"estimated": number | null,"is_verified": boolean | null,"messages": number | null,"month": string | null,"number_id": string,"saved_free_entry": number | null,"saved_free_quota": number | null,"tenant_id": string,"unpriced": number | null
                  }
                  ComputedFields: never
                  Insert: {
                           "actual"?: number | null,"category"?: string | null,"currency"?: string | null,"delivered"?: number | null,"estimated"?: number | null,"is_verified"?: boolean | null,"messages"?: number | null,"month"?: string | null,"number_id"?: string | null,"saved_free_entry"?: number | null,"saved_free_quota"?: number | null,"tenant_id"?: string | null,"unpriced"?: number | null
                         }
                        Update: {
                           "actual"?: number | null,"category"?: string | null,"currency"?: string | null,"delivered"?: number | null,"estimated"?: number | null,"is_verified"?: boolean | null,"messages"?: number | null,"month"?: string | null,"number_id"?: string | null,"saved_free_entry"?: number | null,"saved_free_quota"?: number | null,"tenant_id"?: string | null,"unpriced"?: number | null
                         }
                        Relationships: [
                    {
      foreignKeyName: "costs_daily_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "number_health"
      referencedColumns: ["tenant_id","number_id"]
    },{
      foreignKeyName: "costs_daily_number_id_fkey"
      columns: ["tenant_id","number_id"]
isOneToOne: false
      referencedRelation: "whatsapp_numbers"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"number_health": {
                  Row: {
                    "bulk_pause_reason": string | null,"bulk_paused_until": string | null,"counted_at": string | null,"delivery_rate_1d": number | null,"delivery_rate_28d": number | null,"delivery_rate_7d": number | null,"display_name": string,"fail_rate_1d": number | null,"fail_rate_28d": number | null,"fail_rate_7d": number | null,"handed_1d": number | null,"handed_28d": number | null,"handed_7d": number | null,"is_active": boolean,"last_heard_at": string | null,"messaging_limit": number | null,"number_id": string,"open_alerts": (string)[] | null,"pause_reason": string | null,"paused_until": string | null,"provider": string,"quality_rating": string | null,"queue_age_seconds": number | null,"queued": number | null,"read_rate_1d": number | null,"read_rate_28d": number | null,"read_rate_7d": number | null,"response_avg_7d": number | null,"response_p50": number | null,"response_p90": number | null,"responses_7d": number | null,"scheduled": number | null,"tenant_id": string,"token_expires_at": string | null,"token_state": string | null,"top_errors_7d": Json | null,"unknown": number | null
                  }
                  ComputedFields: never
                  Insert: {
                           "bulk_pause_reason"?: string | null,"bulk_paused_until"?: string | null,"counted_at"?: string | null,"delivery_rate_1d"?: number | null,"delivery_rate_28d"?: number | null,"delivery_rate_7d"?: number | null,"display_name"?: string | null,"fail_rate_1d"?: number | null,"fail_rate_28d"?: number | null,"fail_rate_7d"?: number | null,"handed_1d"?: number | null,"handed_28d"?: number | null,"handed_7d"?: number | null,"is_active"?: boolean | null,"last_heard_at"?: string | null,"messaging_limit"?: number | null,"number_id"?: string | null,"open_alerts"?: (string)[] | null,"pause_reason"?: string | null,"paused_until"?: string | null,"provider"?: string | null,"quality_rating"?: string | null,"queue_age_seconds"?: number | null,"queued"?: number | null,"read_rate_1d"?: number | null,"read_rate_28d"?: number | null,"read_rate_7d"?: number | null,"response_avg_7d"?: number | null,"response_p50"?: number | null,"response_p90"?: number | null,"responses_7d"?: number | null,"scheduled"?: number | null,"tenant_id"?: string | null,"token_expires_at"?: string | null,"token_state"?: string | null,"top_errors_7d"?: Json | null,"unknown"?: number | null
                         }
                        Update: {
                           "bulk_pause_reason"?: string | null,"bulk_paused_until"?: string | null,"counted_at"?: string | null,"delivery_rate_1d"?: number | null,"delivery_rate_28d"?: number | null,"delivery_rate_7d"?: number | null,"display_name"?: string | null,"fail_rate_1d"?: number | null,"fail_rate_28d"?: number | null,"fail_rate_7d"?: number | null,"handed_1d"?: number | null,"handed_28d"?: number | null,"handed_7d"?: number | null,"is_active"?: boolean | null,"last_heard_at"?: string | null,"messaging_limit"?: number | null,"number_id"?: string | null,"open_alerts"?: (string)[] | null,"pause_reason"?: string | null,"paused_until"?: string | null,"provider"?: string | null,"quality_rating"?: string | null,"queue_age_seconds"?: number | null,"queued"?: number | null,"read_rate_1d"?: number | null,"read_rate_28d"?: number | null,"read_rate_7d"?: number | null,"response_avg_7d"?: number | null,"response_p50"?: number | null,"response_p90"?: number | null,"responses_7d"?: number | null,"scheduled"?: number | null,"tenant_id"?: string | null,"token_expires_at"?: string | null,"token_state"?: string | null,"top_errors_7d"?: Json | null,"unknown"?: number | null
                         }
                        Relationships: [
                    {
      foreignKeyName: "whatsapp_numbers_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"sequence_runs": {
                  Row: {
                    "actual_cost": number | null,"at": string,"chat_id": string | null,"currency": string | null,"delivered_at": string | null,"enrollment_id": string,"estimated_cost": number | null,"failed_at": string | null,"message_id": string | null,"outcome": string,"pending_manual_id": string | null,"planned_at": string,"position": number,"read_at": string | null,"reason": string | null,"replied_at": string | null,"sent_at": string | null,"sequence_id": string,"status": string | null,"step_key": string,"tenant_id": string,"version": number
                  }
                  ComputedFields: never
                  Insert: {
                           "actual_cost"?: number | null,"at"?: string | null,"chat_id"?: string | null,"currency"?: string | null,"delivered_at"?: string | null,"enrollment_id"?: string | null,"estimated_cost"?: number | null,"failed_at"?: string | null,"message_id"?: string | null,"outcome"?: string | null,"pending_manual_id"?: string | null,"planned_at"?: string | null,"position"?: number | null,"read_at"?: string | null,"reason"?: string | null,"replied_at"?: string | null,"sent_at"?: string | null,"sequence_id"?: string | null,"status"?: string | null,"step_key"?: string | null,"tenant_id"?: string | null,"version"?: number | null
                         }
                        Update: {
                           "actual_cost"?: number | null,"at"?: string | null,"chat_id"?: string | null,"currency"?: string | null,"delivered_at"?: string | null,"enrollment_id"?: string | null,"estimated_cost"?: number | null,"failed_at"?: string | null,"message_id"?: string | null,"outcome"?: string | null,"pending_manual_id"?: string | null,"planned_at"?: string | null,"position"?: number | null,"read_at"?: string | null,"reason"?: string | null,"replied_at"?: string | null,"sent_at"?: string | null,"sequence_id"?: string | null,"status"?: string | null,"step_key"?: string | null,"tenant_id"?: string | null,"version"?: number | null
                         }
                        Relationships: [
                    {
      foreignKeyName: "sequence_history_enrollment_id_fkey"
      columns: ["tenant_id","enrollment_id"]
isOneToOne: false
      referencedRelation: "sequence_enrollments"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_history_message_id_fkey"
      columns: ["tenant_id","message_id"]
isOneToOne: false
      referencedRelation: "messages"
      referencedColumns: ["tenant_id","id"]
    },{
      foreignKeyName: "sequence_history_pending_manual_id_fkey"
      columns: ["tenant_id","pending_manual_id"]
isOneToOne: false
      referencedRelation: "pending_manual"
      referencedColumns: ["tenant_id","id"]
    }
                  ]
                },"sequence_stats": {
                  Row: {
                    "active": number | null,"blocked": number | null,"completed": number | null,"cost": Json | null,"deleted_at": string | null,"delivered": number | null,"done": number | null,"enrolled": number | null,"failed": number | null,"is_active": boolean,"manual": number | null,"name": string,"opted_out": number | null,"paused": number | null,"read": number | null,"replied": number | null,"replied_24h": number | null,"replied_72h": number | null,"sent": number | null,"sequence_id": string,"skipped": number | null,"stopped": number | null,"tenant_id": string
                  }
                  ComputedFields: never
                  Insert: {
                           "active"?: number | null,"blocked"?: number | null,"completed"?: number | null,"cost"?: Json | null,"deleted_at"?: string | null,"delivered"?: number | null,"done"?: number | null,"enrolled"?: number | null,"failed"?: number | null,"is_active"?: boolean | null,"manual"?: number | null,"name"?: string | null,"opted_out"?: number | null,"paused"?: number | null,"read"?: number | null,"replied"?: number | null,"replied_24h"?: number | null,"replied_72h"?: number | null,"sent"?: number | null,"sequence_id"?: string | null,"skipped"?: number | null,"stopped"?: number | null,"tenant_id"?: string | null
                         }
                        Update: {
                           "active"?: number | null,"blocked"?: number | null,"completed"?: number | null,"cost"?: Json | null,"deleted_at"?: string | null,"delivered"?: number | null,"done"?: number | null,"enrolled"?: number | null,"failed"?: number | null,"is_active"?: boolean | null,"manual"?: number | null,"name"?: string | null,"opted_out"?: number | null,"paused"?: number | null,"read"?: number | null,"replied"?: number | null,"replied_24h"?: number | null,"replied_72h"?: number | null,"sent"?: number | null,"sequence_id"?: string | null,"skipped"?: number | null,"stopped"?: number | null,"tenant_id"?: string | null
                         }
                        Relationships: [
                    {
      foreignKeyName: "sequences_tenant_id_fkey"
      columns: ["tenant_id"]
isOneToOne: false
      referencedRelation: "users"
      referencedColumns: ["id"]
    }
                  ]
                },"sequence_step_stats": {
                  Row: {
                    "cost": Json | null,"delivered": number | null,"done": number | null,"failed": number | null,"manual": number | null,"position": number | null,"read": number | null,"replied_24h": number | null,"replied_72h": number | null,"sent": number | null,"sequence_id": string,"skipped": number | null,"step_key": string,"stopped": number | null,"tenant_id": string,"version": number | null
                  }
                  ComputedFields: never
                  Insert: {
                           "cost"?: Json | null,"delivered"?: number | null,"done"?: number | null,"failed"?: number | null,"manual"?: number | null,"position"?: number | null,"read"?: number | null,"replied_24h"?: number | null,"replied_72h"?: number | null,"sent"?: number | null,"sequence_id"?: string | null,"skipped"?: number | null,"step_key"?: string | null,"stopped"?: number | null,"tenant_id"?: string | null,"version"?: number | null
                         }
                        Update: {
                           "cost"?: Json | null,"delivered"?: number | null,"done"?: number | null,"failed"?: number | null,"manual"?: number | null,"position"?: number | null,"read"?: number | null,"replied_24h"?: number | null,"replied_72h"?: number | null,"sent"?: number | null,"sequence_id"?: string | null,"skipped"?: number | null,"step_key"?: string | null,"stopped"?: number | null,"tenant_id"?: string | null,"version"?: number | null
                         }
                        Relationships: [

                  ]
                }
          }
          Functions: {
            "activity_flush":
{ Args: { "p_all"?: boolean,"p_limit"?: number }; Returns: number
                           },
"alert_resolve":
{ Args: { "p_alert_id": string }; Returns: undefined
                           },
"analysis_claim":
{ Args: { "p_lease_seconds"?: number,"p_limit"?: number }; Returns: Json
                           },
"analysis_fail":
{ Args: { "p_chat_id": string,"p_claim": string,"p_error": string,"p_is_passing"?: boolean,"p_retry_after_seconds"?: number,"p_tenant_id": string,"p_usage"?: Json }; Returns: string
                           },
"analysis_release":
{ Args: { "p_claim": string,"p_reason": string }; Returns: number
                           },
"analysis_settle":
{ Args: { "p_chat_id": string,"p_claim": string,"p_result": Json,"p_tenant_id": string,"p_usage"?: Json }; Returns: string
                           },
"backfill_claim":
{ Args: { "p_lease_seconds"?: number,"p_limit"?: number }; Returns: Json
                           },
"backfill_fail":
{ Args: { "p_claim": string,"p_is_temporary": boolean,"p_number_id": string,"p_problem": string,"p_retry_after_seconds"?: number,"p_tenant_id": string }; Returns: boolean
                           },
"backfill_settle":
{ Args: { "p_claim": string,"p_is_done": boolean,"p_number_id": string,"p_read_until": string,"p_tenant_id": string }; Returns: boolean
                           },
"block_reactivate":
{ Args: { "p_chat_id": string,"p_note": string }; Returns: boolean
                           },
"blocks_detect":
{ Args: Record<PropertyKey, never>; Returns: Json
                           },
"channel_connect":
{ Args: { "p_admin_id": string,"p_expires_at"?: string,"p_issued_at"?: string,"p_number": Json,"p_token": string }; Returns: Json
                           },
"channel_setup_settle":
{ Args: { "p_admin_id": string,"p_number_id": string,"p_problem"?: string,"p_synced"?: boolean,"p_webhook_url"?: string }; Returns: undefined
                           },
"channel_tokens":
{ Args: { "p_numbers": Json }; Returns: Json
                           },
"channel_webhook_keys":
{ Args: { "p_number_id": string }; Returns: Json
                           },
"chat_mark_read":
{ Args: { "p_chat_id": string }; Returns: undefined
                           },
"consent_record":
{ Args: { "p_evidence": string,"p_kind": string,"p_lead_id": string,"p_scope": string }; Returns: Json
                           },
"conversation_assign":
{ Args: { "p_conversation_id": string,"p_user_id": string }; Returns: {
              "assigned_to": string | null,
"avg_response_time": number | null,
"category": string | null,
"chat_id": string,
"closed_at": string | null,
"closed_notice_at": string | null,
"closed_reason": string | null,
"conversion_value": number | null,
"current_agent_id": string | null,
"current_step": string,
"first_response_time": number | null,
"id": string,
"intent": string | null,
"last_at": string | null,
"message_count": number,
"opened_at": string,
"outcome": string | null,
"priority": number,
"reopened_at": string | null,
"requires_attention": boolean,
"satisfaction_rating": number | null,
"session_id": string,
"status": string,
"summary": string | null,
"tenant_id": string
            }
                          SetofOptions: {
        from: "*"
        to: "conversations"
        isOneToOne: true
        isSetofReturn: false
      } },
"conversation_close":
{ Args: { "p_conversation_id": string,"p_outcome"?: string,"p_summary"?: string }; Returns: {
              "assigned_to": string | null,
"avg_response_time": number | null,
"category": string | null,
"chat_id": string,
"closed_at": string | null,
"closed_notice_at": string | null,
"closed_reason": string | null,
"conversion_value": number | null,
"current_agent_id": string | null,
"current_step": string,
"first_response_time": number | null,
"id": string,
"intent": string | null,
"last_at": string | null,
"message_count": number,
"opened_at": string,
"outcome": string | null,
"priority": number,
"reopened_at": string | null,
"requires_attention": boolean,
"satisfaction_rating": number | null,
"session_id": string,
"status": string,
"summary": string | null,
"tenant_id": string
            }
                          SetofOptions: {
        from: "*"
        to: "conversations"
        isOneToOne: true
        isSetofReturn: false
      } },
"conversation_reopen":
{ Args: { "p_conversation_id": string }; Returns: {
              "assigned_to": string | null,
"avg_response_time": number | null,
"category": string | null,
"chat_id": string,
"closed_at": string | null,
"closed_notice_at": string | null,
"closed_reason": string | null,
"conversion_value": number | null,
"current_agent_id": string | null,
"current_step": string,
"first_response_time": number | null,
"id": string,
"intent": string | null,
"last_at": string | null,
"message_count": number,
"opened_at": string,
"outcome": string | null,
"priority": number,
"reopened_at": string | null,
"requires_attention": boolean,
"satisfaction_rating": number | null,
"session_id": string,
"status": string,
"summary": string | null,
"tenant_id": string
            }
                          SetofOptions: {
        from: "*"
        to: "conversations"
        isOneToOne: true
        isSetofReturn: false
      } },
"conversations_close_idle":
{ Args: { "p_limit"?: number }; Returns: number
                           },
"cost_forecast":
{ Args: Record<PropertyKey, never>; Returns: {
              "category": string,"currency": string,"estimated": number,"free_entry": number,"free_quota": number,"is_verified": boolean,"messages": number,"month": string,"number_id": string
            }[]
                           },
"crm_execute_daily_actions":
{ Args: Record<PropertyKey, never>; Returns: number
                           },
"crm_status":
{ Args: Record<PropertyKey, never>; Returns: Json
                           },
"daily_claim":
{ Args: { "p_lease_seconds"?: number,"p_limit"?: number }; Returns: Json
                           },
"daily_fail":
{ Args: { "p_claim": string,"p_day": string,"p_error": string,"p_is_final"?: boolean,"p_is_passing"?: boolean,"p_lead_id": string,"p_retry_after_seconds"?: number,"p_tenant_id": string,"p_usage"?: Json }; Returns: string
                           },
"daily_plan":
{ Args: { "p_force"?: boolean,"p_tenant_id"?: string }; Returns: number
                           },
"daily_release":
{ Args: { "p_claim": string,"p_reason": string }; Returns: number
                           },
"daily_settle":
{ Args: { "p_agent_id": string,"p_at"?: string,"p_claim": string,"p_day": string,"p_decision": string,"p_lead_id": string,"p_tenant_id": string,"p_text": string,"p_usage"?: Json }; Returns: string
                           },
"enrollment_pause":
{ Args: { "p_enrollment_id": string }; Returns: {
              "changed_at": string,
"chat_id": string,
"enrolled_at": string,
"enrolled_by": string | null,
"id": string,
"last_message_id": string | null,
"last_step_at": string | null,
"next_run_at": string,
"position": number,
"reason": string | null,
"replied_at": string | null,
"sequence_id": string,
"source": string,
"status": string,
"tenant_id": string,
"version": number,
"waits_for": string | null
            }
                          SetofOptions: {
        from: "*"
        to: "sequence_enrollments"
        isOneToOne: true
        isSetofReturn: false
      } },
"enrollment_restart":
{ Args: { "p_enrollment_id": string }; Returns: {
              "changed_at": string,
"chat_id": string,
"enrolled_at": string,
"enrolled_by": string | null,
"id": string,
"last_message_id": string | null,
"last_step_at": string | null,
"next_run_at": string,
"position": number,
"reason": string | null,
"replied_at": string | null,
"sequence_id": string,
"source": string,
"status": string,
"tenant_id": string,
"version": number,
"waits_for": string | null
            }
                          SetofOptions: {
        from: "*"
        to: "sequence_enrollments"
        isOneToOne: true
        isSetofReturn: false
      } },
"enrollment_resume":
{ Args: { "p_enrollment_id": string }; Returns: {
              "changed_at": string,
"chat_id": string,
"enrolled_at": string,
"enrolled_by": string | null,
"id": string,
"last_message_id": string | null,
"last_step_at": string | null,
"next_run_at": string,
"position": number,
"reason": string | null,
"replied_at": string | null,
"sequence_id": string,
"source": string,
"status": string,
"tenant_id": string,
"version": number,
"waits_for": string | null
            }
                          SetofOptions: {
        from: "*"
        to: "sequence_enrollments"
        isOneToOne: true
        isSetofReturn: false
      } },
"enrollment_skip":
{ Args: { "p_enrollment_id": string }; Returns: {
              "changed_at": string,
"chat_id": string,
"enrolled_at": string,
"enrolled_by": string | null,
"id": string,
"last_message_id": string | null,
"last_step_at": string | null,
"next_run_at": string,
"position": number,
"reason": string | null,
"replied_at": string | null,
"sequence_id": string,
"source": string,
"status": string,
"tenant_id": string,
"version": number,
"waits_for": string | null
            }
                          SetofOptions: {
        from: "*"
        to: "sequence_enrollments"
        isOneToOne: true
        isSetofReturn: false
      } },
"enrollment_stop":
{ Args: { "p_enrollment_id": string }; Returns: {
              "changed_at": string,
"chat_id": string,
"enrolled_at": string,
"enrolled_by": string | null,
"id": string,
"last_message_id": string | null,
"last_step_at": string | null,
"next_run_at": string,
"position": number,
"reason": string | null,
"replied_at": string | null,
"sequence_id": string,
"source": string,
"status": string,
"tenant_id": string,
"version": number,
"waits_for": string | null
            }
                          SetofOptions: {
        from: "*"
        to: "sequence_enrollments"
        isOneToOne: true
        isSetofReturn: false
      } },
"inbox_list":
{ Args: { "p_assigned_to"?: string,"p_attention"?: boolean,"p_before_at"?: string,"p_before_chat"?: string,"p_limit"?: number,"p_number_id"?: string,"p_unread"?: boolean }; Returns: {
              "agent_paused_until": string,"assigned_to": string,"assignee_name": string,"block_state": string,"chat_id": string,"conversation_id": string,"free_entry_reply_by": string,"free_entry_until": string,"labels": (string)[],"last_at": string,"last_content": string,"last_direction": string,"last_status": string,"last_type": string,"lead_id": string,"lead_name": string,"lead_phone": string,"lead_priority": number,"number_id": string,"number_name": string,"requires_attention": boolean,"unread_count": number,"window_expires_at": string,"window_open": boolean
            }[]
                           },
"job_run_record":
{ Args: { "p_counts"?: Json,"p_error"?: string,"p_job": string,"p_started_at": string,"p_tenant_id"?: string }; Returns: undefined
                           },
"lead_card":
{ Args: { "p_lead_id": string }; Returns: Json
                           },
"lead_enrich":
{ Args: { "p_chat_id": string,"p_labels": (string)[],"p_name": string,"p_tenant_id": string }; Returns: boolean
                           },
"lead_merge":
{ Args: { "p_keep"?: string,"p_lead_id": string,"p_other_lead_id": string }; Returns: {
              "assigned_to": string | null,
"business_category": string | null,
"chat_id": string | null,
"company": string | null,
"created_at": string,
"customer_type": string | null,
"email": string | null,
"id": string,
"is_active": boolean,
"label1": string | null,
"label2": string | null,
"label3": string | null,
"last_activity": string | null,
"lead_grade": string,
"lead_status": string,
"merged_at": string | null,
"merged_by": string | null,
"merged_into": string | null,
"metadata": NonNullable<Json>,
"name": string | null,
"name_source": string | null,
"named_at": string | null,
"next_action": string | null,
"next_action_at": string | null,
"opt_out_scope": string | null,
"opted_out_at": string | null,
"phone": string | null,
"priority": number,
"profile_status": string | null,
"qualification_score": number,
"tags": (string)[],
"tenant_id": string,
"thread_id": string | null,
"thread_token_count": number,
"timezone": string | null,
"updated_at": string,
"user_name": string | null
            }
                          SetofOptions: {
        from: "*"
        to: "customer_leads"
        isOneToOne: true
        isSetofReturn: false
      } },
"lead_merge_dismiss":
{ Args: { "p_lead_id": string,"p_other_lead_id": string }; Returns: undefined
                           },
"me":
{ Args: Record<PropertyKey, never>; Returns: Json
                           },
"message_cancel":
{ Args: { "p_message_id": string }; Returns: Json
                           },
"message_retry":
{ Args: { "p_force"?: boolean,"p_message_id": string }; Returns: Json
                           },
"message_send":
{ Args: { "p_chat_id"?: string,"p_content"?: string,"p_currency"?: string,"p_expected_cost"?: number,"p_force"?: boolean,"p_idempotency_key"?: string,"p_lead_id"?: string,"p_media"?: Json,"p_number_id"?: string,"p_parameters"?: Json,"p_pending_id"?: string,"p_reason"?: string,"p_reply_to"?: string,"p_send_at"?: string,"p_template_id"?: string,"p_type"?: string }; Returns: Json
                           },
"messages_list":
{ Args: { "p_before_at"?: string,"p_before_id"?: string,"p_chat_id": string,"p_limit"?: number }; Returns: {
              "agent_id": string,"author_id": string,"content": string,"conversation_id": string,"data": Json,"delivered_at": string,"direction": string,"edited_at": string,"error_code": number,"error_message": string,"failed_at": string,"id": string,"media": Json,"provider_at": string,"reactions": Json,"read_at": string,"reply_to": string,"revoked_at": string,"role": string,"sent_at": string,"source": string,"status": string,"type": string,"wa_message_id": string
            }[]
                           },
"number_disconnect":
{ Args: { "p_number_id": string }; Returns: undefined
                           },
"number_health_watch":
{ Args: Record<PropertyKey, never>; Returns: number
                           },
"number_resume":
{ Args: { "p_number_id": string }; Returns: undefined
                           },
"numbers_watch":
{ Args: Record<PropertyKey, never>; Returns: number
                           },
"ops_status":
{ Args: Record<PropertyKey, never>; Returns: Json
                           },
"outbox_claim":
{ Args: { "p_lead_ms"?: number,"p_lease_seconds"?: number,"p_limit"?: number,"p_worker"?: string }; Returns: Json
                           },
"outbox_intent":
{ Args: { "p_claim": string,"p_items": Json,"p_lease_seconds"?: number }; Returns: (string)[]
                           },
"outbox_settle":
{ Args: { "p_claim": string,"p_results": Json }; Returns: number
                           },
"outbox_sweep":
{ Args: Record<PropertyKey, never>; Returns: undefined
                           },
"ownership_transfer":
{ Args: { "p_user_id": string }; Returns: undefined
                           },
"pending_manual_dismiss":
{ Args: { "p_id": string }; Returns: {
              "added_at": string,
"chat_id": string,
"done_at": string | null,
"done_by": string | null,
"id": string,
"message_id": string | null,
"priority": number,
"reason": string,
"sent_manually": boolean,
"source": string,
"status": string,
"tenant_id": string,
"text": string
            }
                          SetofOptions: {
        from: "*"
        to: "pending_manual"
        isOneToOne: true
        isSetofReturn: false
      } },
"pending_manual_done":
{ Args: { "p_id": string }; Returns: {
              "added_at": string,
"chat_id": string,
"done_at": string | null,
"done_by": string | null,
"id": string,
"message_id": string | null,
"priority": number,
"reason": string,
"sent_manually": boolean,
"source": string,
"status": string,
"tenant_id": string,
"text": string
            }
                          SetofOptions: {
        from: "*"
        to: "pending_manual"
        isOneToOne: true
        isSetofReturn: false
      } },
"pending_manual_list":
{ Args: { "p_limit"?: number,"p_source"?: string }; Returns: {
              "added_at": string,"chat_id": string,"enrollment_id": string,"free_entry_until": string,"id": string,"lead_id": string,"lead_name": string,"lead_phone": string,"media": Json,"of_type": string,"priority": number,"reason": string,"sequence_id": string,"sequence_name": string,"source": string,"step_key": string,"step_position": number,"text": string,"wa_link": string,"window_expires_at": string,"window_open": boolean
            }[]
                           },
"pending_manual_send":
{ Args: { "p_content"?: string,"p_currency"?: string,"p_expected_cost"?: number,"p_force"?: boolean,"p_id": string,"p_idempotency_key"?: string,"p_parameters"?: Json,"p_reason"?: string,"p_template_id"?: string }; Returns: Json
                           },
"plan_set":
{ Args: { "p_plan": string,"p_tenant_id": string }; Returns: undefined
                           },
"reply_claim":
{ Args: { "p_lease_seconds"?: number,"p_limit"?: number }; Returns: Json
                           },
"reply_fail":
{ Args: { "p_agent_id"?: string,"p_chat_id": string,"p_claim": string,"p_error": string,"p_is_final"?: boolean,"p_retry_after_seconds"?: number,"p_tenant_id": string,"p_usage"?: Json }; Returns: string
                           },
"reply_settle":
{ Args: { "p_agent_id": string,"p_chat_id": string,"p_claim": string,"p_closes"?: boolean,"p_content": string,"p_summary"?: string,"p_tenant_id": string,"p_usage"?: Json }; Returns: Json
                           },
"restore_point_restore":
{ Args: { "p_parts"?: (string)[],"p_restore_point_id": string }; Returns: Json
                           },
"send_preview":
{ Args: { "p_chat_id": string,"p_force"?: boolean,"p_purpose"?: string,"p_template_id"?: string,"p_type"?: string }; Returns: Json
                           },
"sequence_delete":
{ Args: { "p_sequence_id": string }; Returns: undefined
                           },
"sequence_enroll":
{ Args: { "p_again"?: boolean,"p_lead_id": string,"p_number_id"?: string,"p_sequence_id": string }; Returns: Json
                           },
"sequence_enroll_many":
{ Args: { "p_again"?: boolean,"p_filter": Json,"p_number_id"?: string,"p_sequence_id": string }; Returns: Json
                           },
"sequence_move":
{ Args: { "p_dry_run"?: boolean,"p_sequence_id": string }; Returns: Json
                           },
"sequence_save":
{ Args: { "p_document": Json,"p_sequence_id"?: string }; Returns: Json
                           },
"sequence_set_active":
{ Args: { "p_is_active": boolean,"p_sequence_id": string }; Returns: {
              "after_reply": string,
"created_at": string,
"deleted_at": string | null,
"description": string | null,
"goal": string | null,
"goal_outcomes": (string)[],
"goal_statuses": (string)[],
"goal_tags": (string)[],
"id": string,
"is_active": boolean,
"name": string,
"priority": number,
"resume_after_hours": number | null,
"stop_outcomes": (string)[],
"stop_statuses": (string)[],
"stop_tags": (string)[],
"tenant_id": string,
"updated_at": string,
"version": number
            }
                          SetofOptions: {
        from: "*"
        to: "sequences"
        isOneToOne: true
        isSetofReturn: false
      } },
"sequences_export":
{ Args: { "p_names"?: (string)[] }; Returns: Json
                           },
"sequences_import":
{ Args: { "p_document": Json,"p_mode"?: string }; Returns: Json
                           },
"sequences_process":
{ Args: { "p_limit"?: number }; Returns: Json
                           },
"staff_change_role":
{ Args: { "p_role": string,"p_user_id": string }; Returns: undefined
                           },
"staff_invite":
{ Args: { "p_email": string,"p_name"?: string,"p_role": string }; Returns: string
                           },
"staff_remove":
{ Args: { "p_user_id": string }; Returns: undefined
                           },
"stats_recount":
{ Args: { "p_from"?: string,"p_tenant_id": string,"p_to"?: string }; Returns: number
                           },
"stats_refresh":
{ Args: { "p_seconds"?: number }; Returns: number
                           },
"template_accounts":
{ Args: { "p_tenant_id"?: string }; Returns: Json
                           },
"templates_apply":
{ Args: { "p_is_complete"?: boolean,"p_listed_at": string,"p_provider": string,"p_templates": Json,"p_tenant_id": string,"p_waba_id": string }; Returns: Json
                           },
"templates_fail":
{ Args: { "p_problem": string,"p_tenant_id": string,"p_waba_id": string }; Returns: undefined
                           },
"tenant_sequences_export":
{ Args: { "p_names"?: (string)[],"p_tenant_id": string }; Returns: Json
                           },
"tenant_sequences_import":
{ Args: { "p_document": Json,"p_mode"?: string,"p_tenant_id": string }; Returns: Json
                           },
"thread_clear":
{ Args: { "p_chat_id": string }; Returns: string
                           },
"thread_history":
{ Args: { "p_limit"?: number,"p_thread_id": string }; Returns: Json
                           },
"thread_list":
{ Args: { "p_chat_id": string,"p_limit"?: number }; Returns: {
              "closed_at": string,"closed_reason": string,"created_at": string,"id": string,"is_current": boolean,"last_input_tokens": number,"run_count": number,"summary": string,"token_count": number
            }[]
                           },
"token_adopt":
{ Args: { "p_claim": string,"p_expires_at": string,"p_issued_at": string,"p_number_id": string,"p_tenant_id": string }; Returns: boolean
                           },
"token_check_settle":
{ Args: { "p_claim": string,"p_expires_at"?: string,"p_issued_at"?: string,"p_number_id": string,"p_problem"?: string,"p_result": string,"p_tenant_id": string }; Returns: boolean
                           },
"token_checks_claim":
{ Args: { "p_lease_seconds"?: number,"p_limit"?: number,"p_since"?: string }; Returns: Json
                           },
"token_drop":
{ Args: { "p_claim": string,"p_kind": string,"p_number_id": string,"p_tenant_id": string }; Returns: boolean
                           },
"token_offer":
{ Args: { "p_claim": string,"p_expires_at": string,"p_number_id": string,"p_tenant_id": string,"p_token": string }; Returns: boolean
                           },
"webhook_purge":
{ Args: { "p_limit"?: number }; Returns: number
                           },
"webhook_receive":
{ Args: { "p_batch": Json }; Returns: Json
                           },
"webhook_replay":
{ Args: { "p_events"?: Json,"p_log_id": string }; Returns: boolean
                           },
"webhook_retry":
{ Args: { "p_limit"?: number }; Returns: number
                           },
"worker_beat":
{ Args: { "p_loop_id": string,"p_seconds": number,"p_worker": string }; Returns: undefined
                           },
"worker_leave":
{ Args: { "p_loop_id": string,"p_worker": string }; Returns: undefined
                           }
          }
          Enums: {
            [_ in never]: never
          }
          CompositeTypes: {
            [_ in never]: never
          }
        }
}

type DatabaseWithoutInternals = Omit<Database, '__InternalSupabase'>

type DefaultSchema = DatabaseWithoutInternals[Extract<keyof Database, "public">]

export type Tables<
  DefaultSchemaTableNameOrOptions extends
    | keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
        DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])
    : never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? (DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"] &
      DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Views"])[TableName] extends {
      Row: infer R
    }
    ? R
    : never
  : DefaultSchemaTableNameOrOptions extends keyof (DefaultSchema["Tables"] & DefaultSchema["Views"])
  ? (DefaultSchema["Tables"] & DefaultSchema["Views"])[DefaultSchemaTableNameOrOptions] extends {
      Row: infer R
    }
    ? R
    : never
  : never

export type TablesInsert<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
      Insert: infer I
    }
    ? I
    : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
  ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
      Insert: infer I
    }
    ? I
    : never
  : never

export type TablesUpdate<
  DefaultSchemaTableNameOrOptions extends
    | keyof DefaultSchema["Tables"]
    | { schema: keyof DatabaseWithoutInternals },
  TableName extends DefaultSchemaTableNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"]
    : never = never
> = DefaultSchemaTableNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaTableNameOrOptions["schema"]]["Tables"][TableName] extends {
      Update: infer U
    }
    ? U
    : never
  : DefaultSchemaTableNameOrOptions extends keyof DefaultSchema["Tables"]
  ? DefaultSchema["Tables"][DefaultSchemaTableNameOrOptions] extends {
      Update: infer U
    }
    ? U
    : never
  : never

export type Enums<
  DefaultSchemaEnumNameOrOptions extends
    | keyof DefaultSchema["Enums"]
    | { schema: keyof DatabaseWithoutInternals },
  EnumName extends DefaultSchemaEnumNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"]
    : never = never
> = DefaultSchemaEnumNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[DefaultSchemaEnumNameOrOptions["schema"]]["Enums"][EnumName]
  : DefaultSchemaEnumNameOrOptions extends keyof DefaultSchema["Enums"]
  ? DefaultSchema["Enums"][DefaultSchemaEnumNameOrOptions]
  : never

export type CompositeTypes<
  PublicCompositeTypeNameOrOptions extends
    | keyof DefaultSchema["CompositeTypes"]
    | { schema: keyof DatabaseWithoutInternals },
  CompositeTypeName extends PublicCompositeTypeNameOrOptions extends {
    schema: keyof DatabaseWithoutInternals
  }
    ? keyof DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"]
    : never = never
> = PublicCompositeTypeNameOrOptions extends { schema: keyof DatabaseWithoutInternals }
  ? DatabaseWithoutInternals[PublicCompositeTypeNameOrOptions["schema"]]["CompositeTypes"][CompositeTypeName]
  : PublicCompositeTypeNameOrOptions extends keyof DefaultSchema["CompositeTypes"]
  ? DefaultSchema["CompositeTypes"][PublicCompositeTypeNameOrOptions]
  : never

export const Constants = {
  "public": {
          Enums: {

          }
        }
} as const
